package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bytesize"
)

var verifyCommand = command{
	name:  "verify",
	short: "read every byte of a cache and report damage",
	long: `
Reads and verifies every entry. Nothing is changed unless -quarantine is
given, which moves damaged entries aside, as a program does that comes across
one. Entries that were sealed with another secret than that of -key-file can't
be judged, and count as found.`,
	make: func(fs *flag.FlagSet) action {
		var dir dirFlags
		dir.register(fs)
		quarantine := fs.Bool("quarantine", false, "move damaged entries to the quarantine")
		return func(ctx context.Context, s *streams, args []string) error {
			if len(args) > 0 {
				return usagef("verify takes no arguments; the directory goes into -dir")
			}
			open := dir.read
			if *quarantine {
				open = func() (*modcache.Disk, error) { return dir.write(false, modcache.DiskOptions{}) }
			}
			d, err := open()
			if err != nil {
				return err
			}
			defer d.Close()
			r, err := d.Verify(ctx)
			if err != nil {
				return err
			}
			return report(s, r)
		}
	},
}

func report(s *streams, r modcache.VerifyReport) error {
	for _, e := range slices.Concat(r.Corrupt, r.OtherKey, r.Failed) {
		fmt.Fprintf(s.out, "%s  %s\n", e.Key, troubleText(e.Err))
	}
	if _, err := fmt.Fprintf(s.out, "%s sound, %s on disk\n", plural(r.Entries, "entry is", "entries are"), bytesize.Format(r.Bytes)); err != nil {
		return err
	}
	switch {
	case len(r.Failed) > 0:
		return fmt.Errorf("%s could not be read; see above", plural(len(r.Failed), "entry", "entries"))
	case len(r.Corrupt)+len(r.OtherKey) > 0:
		return foundError(plural(len(r.Corrupt)+len(r.OtherKey), "entry is", "entries are") + " not what was stored; programs compile such modules anew")
	}
	return nil
}

var rmCommand = command{
	name: "rm", args: "[key...]",
	short: "remove entries",
	long: `
Removes entries by key, or those that all of the given flags select: for
example the code of wazero versions that nobody runs any more with
-other-engines. Running programs are not disturbed: what they have loaded
stays loaded, and what they need again they compile again.`,
	make: func(fs *flag.FlagSet) action {
		var dir dirFlags
		var sel selection
		dir.register(fs)
		sel.register(fs)
		all := fs.Bool("all", false, "all entries")
		dry := fs.Bool("n", false, "only print what would be removed")
		return func(ctx context.Context, s *streams, keys []string) error {
			if !*all && sel.isEmpty() && len(keys) == 0 {
				return usagef("name keys, or select entries with flags, or say -all")
			}
			if *all && (!sel.isEmpty() || len(keys) > 0) {
				return usagef("-all leaves nothing to select")
			}
			open := dir.read
			if !*dry {
				open = func() (*modcache.Disk, error) { return dir.write(false, modcache.DiskOptions{}) }
			}
			d, err := open()
			if err != nil {
				return err
			}
			defer d.Close()
			entries, err := sel.pick(ctx, d, keys)
			if err != nil {
				return err
			}
			return remove(ctx, s, d, entries, *dry)
		}
	},
}

func remove(ctx context.Context, s *streams, d *modcache.Disk, entries []modcache.DiskEntry, dry bool) error {
	if dry {
		return printEntries(s, entries, false)
	}
	removed, bytes := 0, int64(0)
	var err error
	for _, e := range entries {
		if err = d.Delete(ctx, e.Key); err != nil {
			break
		}
		removed++
		bytes += e.Stored
	}
	_, printErr := fmt.Fprintf(s.out, "%s removed, %s\n", plural(removed, "entry", "entries"), bytesize.Format(bytes))
	return errors.Join(err, printErr)
}

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bytesize"
	"github.com/modcache/modcache/internal/environ"
)

var verifyCommand = command{
	name:  "verify",
	short: "read every byte of a cache and report damage",
	long: `
Reads and verifies every entry. Nothing is changed unless -quarantine is
given, which moves damaged entries aside, as a program does that comes across
one. Entries that were sealed with another secret than that of -key-file can't
be judged, and count as found.

The exit code is 3 if anything isn't what was stored, and 1 if an entry can't
be read, or is damaged and stays in spite of -quarantine, or if a part of the
directory can't be listed; the others are verified all the same.`,
	make: func(fs *flag.FlagSet) action {
		var dir dirFlags
		dir.register(fs)
		asJSON := fs.Bool("json", false, "one JSON object")
		quarantine := fs.Bool("quarantine", false, "move damaged entries to the quarantine")
		return func(ctx context.Context, s *streams, _ []string) error {
			d, err := dir.open(ctx, s, modcache.DiskOptions{ReadOnly: !*quarantine}, false)
			if err != nil {
				return err
			}
			defer d.Close()
			r, err := d.Verify(ctx) // also if a directory can't be listed
			if *asJSON {
				_ = s.json(verifiedOf(r))
			} else {
				report(s, r)
			}
			found := len(r.Corrupt) + len(r.OtherKey)
			stay := 0
			if *quarantine {
				for _, e := range r.Corrupt {
					if now, ok, err := d.Stat(ctx, e.Key); err != nil || ok && now.Used.Equal(e.Used) && now.Stored == e.Stored {
						stay++
					}
				}
			}
			switch {
			case err != nil:
				return err
			case len(r.Failed) > 0:
				return fmt.Errorf("%s could not be read; see above", plural(len(r.Failed), "entry", "entries"))
			case stay > 0:
				return fmt.Errorf("%s damaged in its place: this user can't move it, see above", plural(stay, "entry stays", "entries stay"))
			case found > 0:
				return foundError(plural(found, "entry is", "entries are") + " not what was stored; programs compile such modules anew")
			}
			return nil
		}
	},
}

// verified is what verify tells scripts.
type verified struct {
	Sound    int         `json:"sound"`
	Bytes    int64       `json:"bytes"`     // on disk, of the sound ones
	Damaged  []entryJSON `json:"damaged"`   // each with its error
	OtherKey []entryJSON `json:"other_key"` // sealed with another secret
	Failed   []entryJSON `json:"failed"`    // could not be read
}

func verifiedOf(r modcache.VerifyReport) verified {
	return verified{r.Entries, r.Bytes, jsonOfAll(r.Corrupt), jsonOfAll(r.OtherKey), jsonOfAll(r.Failed)}
}

func report(s *streams, r modcache.VerifyReport) {
	for _, e := range slices.Concat(r.Corrupt, r.OtherKey, r.Failed) {
		fmt.Fprintf(s.out, "%s  %s\n", e.Key, troubleText(e.Err))
	}
	fmt.Fprintf(s.out, "%s sound, %s on disk\n", plural(r.Entries, "entry is", "entries are"), bytesize.Format(r.Bytes))
}

var rmCommand = command{
	name: "rm", args: "[key...]",
	short: "remove entries",
	long: `
Removes entries by key, or those that all of the given flags select: for
example the code of wazero versions that nobody runs any more with
-other-engines. Running programs are not disturbed: what they have loaded
stays loaded, and what they need again they compile again. In the directory of
modcache serve, entries are judged by the engine that their code is for; one
that doesn't say is not selected by -other-engines.

What can't be removed or listed keeps nothing else from it; then the exit code
is 1.`,
	make: func(fs *flag.FlagSet) action {
		var dir dirFlags
		var sel selection
		dir.register(fs)
		sel.register(fs)
		all := fs.Bool("all", false, "all entries")
		dry := fs.Bool("n", false, "only print what would be removed")
		asJSON := fs.Bool("json", false, "one JSON object")
		return func(ctx context.Context, s *streams, keys []string) error {
			if !*all && sel.isEmpty() && len(keys) == 0 {
				return usagef("name keys, or select entries with flags, or say -all")
			}
			if *all && (!sel.isEmpty() || len(keys) > 0) {
				return usagef("-all leaves nothing to select")
			}
			d, err := dir.open(ctx, s, modcache.DiskOptions{ReadOnly: *dry}, false)
			if err != nil {
				return err
			}
			defer d.Close()
			reader, err := dir.open(ctx, s, readOnly, false) // what stays wasn't used
			if err != nil {
				return err
			}
			defer reader.Close()
			entries, unlisted := sel.pick(ctx, reader, keys)
			if entries == nil {
				return unlisted
			}
			if *dry {
				nameEngines(ctx, reader, entries)
			}
			switch {
			case *dry && *asJSON:
				_ = s.json(foresee(entries))
				return unlisted
			case *dry:
				printEntries(s, entries, false)
				return unlisted
			}
			r, err := remove(ctx, s, d, entries)
			if *asJSON {
				_ = s.json(r)
			} else {
				fmt.Fprintf(s.out, "%s removed, %s\n", plural(r.Removed, "entry", "entries"), bytesize.Format(r.Bytes))
			}
			return errors.Join(unlisted, err)
		}
	},
}

// rmReport is what rm tells scripts.
type rmReport struct {
	DryRun  bool        `json:"dry_run"` // the rest is what would happen
	Removed int         `json:"removed"`
	Bytes   int64       `json:"bytes"` // on disk, of those
	Failed  int         `json:"failed"`
	Entries []entryJSON `json:"entries,omitempty"` // that would be removed
}

// foresee is what rm would do.
func foresee(entries []modcache.DiskEntry) rmReport {
	r := rmReport{DryRun: true, Removed: len(entries), Entries: jsonOfAll(entries)}
	for _, e := range entries {
		r.Bytes += e.Stored
	}
	return r
}

// remove goes on behind entries that can't be removed.
func remove(ctx context.Context, s *streams, d *modcache.Disk, entries []modcache.DiskEntry) (r rmReport, err error) {
	for _, e := range entries {
		err := d.Delete(ctx, e.Key)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			r.Failed++
			fmt.Fprintf(s.err, "%s  %s\n", e.Key, plain(cause(err)))
			continue
		}
		r.Removed++
		r.Bytes += e.Stored
	}
	if err := ctx.Err(); err != nil {
		return r, err
	}
	if r.Failed > 0 {
		return r, fmt.Errorf("%s could not be removed; see above", plural(r.Failed, "entry", "entries"))
	}
	return r, nil
}

// trimReport is what trim tells scripts.
type trimReport struct {
	DryRun       bool        `json:"dry_run"` // the rest is what would happen
	Dropped      int         `json:"dropped"`
	DroppedBytes int64       `json:"dropped_bytes"`
	Left         int         `json:"left"`
	LeftBytes    int64       `json:"left_bytes"`
	MaxBytes     int64       `json:"max_bytes"`
	MaxAge       int64       `json:"max_age_ns"`
	CrashedFiles int         `json:"crashed_files"`     // of crashed processes, removed; unknown in a dry run
	Entries      []entryJSON `json:"entries,omitempty"` // that would be dropped
}

var trimCommand = command{
	name:  "trim",
	short: "drop what went unused, and what exceeds a size",
	long: `
Drops entries that went unused for too long, then those that went unused
longest until the rest fits, and what crashed processes left behind. Programs
do that by themselves once an hour, with their own limits; the defaults here
are those of modcache.DiskOptions, with MODCACHE_MAX_BYTES, and some of the
file system stays free. To drop the entries of old engines, see rm
-other-engines. If the limits don't hold in the end, because entries can't be
removed, the exit code is 1.

With -n, nothing is changed: what would be dropped is listed, but for what
crashed processes left behind.`,
	make: func(fs *flag.FlagSet) action {
		var dir dirFlags
		dir.register(fs)
		env := environ.Read(os.Getenv)
		limit, _ := boundOf(env)
		maxBytes := keptBytes(limit)
		maxAge := age(modcache.DefaultDiskMaxAge)
		fs.Var(&maxBytes, "max-bytes", "how much to keep, such as `2GiB` or 500MB; 0 keeps nothing")
		fs.Var(&maxAge, "max-age", "how long an entry may go unused, such as `30d` or 12h; 0 keeps nothing")
		dry := fs.Bool("n", false, "only print what would be dropped")
		asJSON := fs.Bool("json", false, "one JSON object")
		return func(ctx context.Context, s *streams, _ []string) error {
			if err := env.Errors[environ.MaxBytes]; err != nil && maxBytes == keptBytes(limit) {
				fmt.Fprintf(s.err, "modcache trim: %s\n", plain(err))
			}
			// A limit of 0 means the default to a Disk, and nothing at all here.
			d, err := dir.open(ctx, s, modcache.DiskOptions{
				ReadOnly: *dry, MaxBytes: max(1, int64(maxBytes)), MaxAge: max(1, time.Duration(maxAge)),
			}, false)
			if err != nil {
				return err
			}
			defer d.Close()
			report := trimReport{DryRun: *dry, MaxBytes: int64(maxBytes), MaxAge: int64(maxAge)}
			if *dry {
				drop, r, err := d.PlanTrim(ctx) // also if a directory can't be listed
				nameEngines(ctx, d, drop)
				if *asJSON {
					report.Dropped, report.DroppedBytes, report.Left, report.LeftBytes = r.Evicted, r.EvictedBytes, r.Entries, r.Bytes
					report.Entries = jsonOfAll(drop)
					_ = s.json(report)
					return err
				}
				if len(drop) > 0 {
					printEntries(s, drop, false)
				}
				fmt.Fprintf(s.out, "%s would be dropped, %s; %s left, %s; limits: -max-bytes %s -max-age %s\n",
					plural(r.Evicted, "entry", "entries"), bytesize.Format(r.EvictedBytes),
					plural(r.Entries, "entry", "entries"), bytesize.Format(r.Bytes), &maxBytes, &maxAge)
				return err
			}
			r, err := trim(ctx, d)
			err = errors.Join(err, d.Close())
			// Opening the directory may have started a trim too.
			m := d.Metrics()
			if *asJSON {
				report.Dropped, report.DroppedBytes, report.Left, report.LeftBytes = int(m.Evictions), int64(m.EvictedBytes), r.Entries, r.Bytes
				report.CrashedFiles = r.Reaped
				_ = s.json(report)
				return err
			}
			within := "within"
			if err != nil {
				within = "which should be within"
			}
			fmt.Fprintf(s.out, "%s dropped, %s; %s stay, %s, %s -max-bytes %s -max-age %s; %s of crashed processes removed\n",
				plural(int(m.Evictions), "entry", "entries"), bytesize.Format(int64(m.EvictedBytes)),
				plural(r.Entries, "entry", "entries"), bytesize.Format(r.Bytes), within, &maxBytes, &maxAge, plural(r.Reaped, "file", "files"))
			return err
		}
	},
}

// trim is Disk.Trim, but fails if the limits don't hold then.
func trim(ctx context.Context, d *modcache.Disk) (modcache.TrimReport, error) {
	r, err := d.Trim(ctx)
	if err != nil {
		return r, err
	}
	r, left, err := trimAgain(ctx, d, r)
	if len(left) > 0 {
		err = fmt.Errorf("the limits don't hold: %s left that should have gone, the first is %s; may this user remove it?",
			plural(len(left), "entry is", "entries are"), left[0].Key)
	}
	return r, err
}

// trimAgain finds the entries that should have gone and stay, after a trim that r tells of. What others stored or used meanwhile goes with a second one.
func trimAgain(ctx context.Context, d *modcache.Disk, r modcache.TrimReport) (_ modcache.TrimReport, stay []modcache.DiskEntry, err error) {
	first, _, err := d.PlanTrim(ctx)
	if err != nil || len(first) == 0 {
		return r, first, err
	}
	second, err := d.Trim(ctx)
	if err != nil {
		return r, nil, err
	}
	second.Reaped += r.Reaped
	left, _, err := d.PlanTrim(ctx)
	for _, e := range left {
		if slices.ContainsFunc(first, func(f modcache.DiskEntry) bool { return f.Key == e.Key && f.Used.Equal(e.Used) }) {
			stay = append(stay, e)
		}
	}
	return second, stay, err
}

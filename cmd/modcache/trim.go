package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"time"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bytesize"
)

var trimCommand = command{
	name:  "trim",
	short: "drop what went unused, and what exceeds a size",
	long: `
Drops entries that went unused for too long, then those that went unused
longest until the rest fits, and what crashed processes left behind. Programs
do that by themselves once an hour, with their own limits; the defaults here
are those of modcache.DiskOptions, and some of the file system stays free. To
drop the entries of old engines, see rm -other-engines.

With -n, nothing is changed: what the two limits would drop is listed. What
else would go, because the file system is nearly full, because its format is
old, or because a crashed process left it, isn't foreseen.`,
	make: func(fs *flag.FlagSet) action {
		var dir dirFlags
		dir.register(fs)
		maxBytes, maxAge := byteCount(modcache.DefaultDiskMaxBytes), age(modcache.DefaultDiskMaxAge)
		fs.Var(&maxBytes, "max-bytes", "how `much` to keep, such as 500MB or 2GiB")
		fs.Var(&maxAge, "max-age", "how `long` an entry may go unused, such as 12h or 30d")
		dry := fs.Bool("n", false, "only print what would be dropped")
		return func(ctx context.Context, s *streams, args []string) error {
			if len(args) > 0 {
				return usagef("trim takes no arguments; the directory goes into -dir")
			}
			if *dry {
				return foresee(ctx, s, &dir, maxBytes, maxAge)
			}
			// A limit of 0 means the default to a Disk, and nothing at all here.
			o := modcache.DiskOptions{MaxBytes: max(1, int64(maxBytes)), MaxAge: max(1, time.Duration(maxAge))}
			d, err := dir.write(false, o)
			if err != nil {
				return err
			}
			r, err := d.Trim(ctx)
			err = errors.Join(err, d.Close())
			// Opening the directory may have started a trim too.
			m := d.Metrics()
			_, printErr := fmt.Fprintf(s.out, "%s dropped, %s; %s left, %s; %s of crashed processes removed\n",
				plural(int(m.Evictions), "entry", "entries"), bytesize.Format(int64(m.EvictedBytes)),
				plural(r.Entries, "entry", "entries"), bytesize.Format(r.Bytes), plural(r.Reaped, "file", "files"))
			return errors.Join(err, printErr)
		}
	},
}

// foresee prints what a trim with these limits would drop.
func foresee(ctx context.Context, s *streams, dir *dirFlags, maxBytes byteCount, maxAge age) error {
	d, err := dir.read()
	if err != nil {
		return err
	}
	defer d.Close()
	var entries []modcache.DiskEntry
	for e, err := range d.Walk(ctx) {
		if err != nil {
			return err
		}
		entries = append(entries, e)
	}
	drop := victims(entries, int64(maxBytes), time.Duration(maxAge), time.Now())
	if len(drop) > 0 {
		if err := printEntries(s, drop, false); err != nil {
			return err
		}
	}
	left := stored(entries) - stored(drop)
	_, err = fmt.Fprintf(s.out, "%s would be dropped, %s; %s left, %s; limits: -max-bytes %s -max-age %s\n",
		plural(len(drop), "entry", "entries"), bytesize.Format(stored(drop)),
		plural(len(entries)-len(drop), "entry", "entries"), bytesize.Format(left), &maxBytes, &maxAge)
	return err
}

// victims returns the entries that Disk.Trim drops because of these limits, in its order.
func victims(entries []modcache.DiskEntry, maxBytes int64, maxAge time.Duration, now time.Time) (drop []modcache.DiskEntry) {
	const skew = time.Hour // a time further ahead is wrong, and goes first
	kept := slices.Clone(entries)
	slices.SortFunc(kept, func(a, b modcache.DiskEntry) int {
		wrongA, wrongB := a.Used.After(now.Add(skew)), b.Used.After(now.Add(skew))
		switch {
		case wrongA && !wrongB:
			return -1
		case wrongB && !wrongA:
			return 1
		}
		return cmp.Or(a.Used.Compare(b.Used), slices.Compare(b.Key[:], a.Key[:]))
	})
	kept = slices.DeleteFunc(kept, func(e modcache.DiskEntry) bool {
		old := e.Used.Before(now.Add(-maxAge))
		if old {
			drop = append(drop, e)
		}
		return old
	})
	for left := stored(kept); left > maxBytes; kept = kept[1:] {
		drop = append(drop, kept[0])
		left -= kept[0].Stored
	}
	return drop
}

// stored returns the bytes of entries on disk.
func stored(entries []modcache.DiskEntry) (n int64) {
	for _, e := range entries {
		n += e.Stored
	}
	return n
}

package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bytesize"
	"github.com/modcache/modcache/internal/dirfs"
	"github.com/modcache/modcache/internal/environ"
	"github.com/modcache/modcache/internal/layout"
)

// summary is what stat tells about a directory.
type summary struct {
	Dir         string          `json:"dir"`
	Entries     int             `json:"entries"`
	Bytes       int64           `json:"bytes"`           // on disk
	CodeBytes   int64           `json:"code_bytes"`      // of machine code in them
	CompileTime int64           `json:"compile_time_ns"` // that they save together, as far as they say
	Aliases     int             `json:"aliases"`         // entries that lead to the code of another
	Served      int             `json:"served"`          // entries that modcache serve keeps for its clients
	Unreadable  int             `json:"unreadable"`
	sealed      int             // of those, with another secret
	Engines     []engineSummary `json:"engines"`
	Other       []kindSummary   `json:"other"` // what isn't an entry of this format
	Limits      limits          `json:"limits"`
	LastTrim    *time.Time      `json:"last_trim,omitempty"`
	FreeBytes   int64           `json:"free_bytes,omitempty"`
	TotalBytes  int64           `json:"total_bytes,omitempty"`
}

// limits are those that programs keep the directory within by default. What they set
// themselves isn't known here.
type limits struct {
	MaxBytes int64  `json:"max_bytes"`
	Why      string `json:"why"`               // what MaxBytes comes from
	MaxAge   int64  `json:"max_age_ns"`        // how long an entry may go unused
	Problem  string `json:"problem,omitempty"` // with what the variable says, which doesn't count then
}

func limitsOf(env environ.Settings) limits {
	limit, why := boundOf(env)
	l := limits{MaxBytes: int64(limit), Why: why, MaxAge: int64(modcache.DefaultDiskMaxAge)}
	if err := env.Errors[environ.MaxBytes]; err != nil {
		l.Problem = err.Error()
	}
	return l
}

type engineSummary struct {
	Engine    string    `json:"engine"`
	This      bool      `json:"this"` // of this tool, or the program that was named
	Entries   int       `json:"entries"`
	Bytes     int64     `json:"bytes"`
	OldestUse time.Time `json:"oldest_use"`
	LatestUse time.Time `json:"latest_use"`
	Oldest    time.Time `json:"oldest"` // creation
	Latest    time.Time `json:"latest"`
}

type kindSummary struct {
	Kind  string `json:"kind"`
	Files int    `json:"files"`
	Bytes int64  `json:"bytes"` // on disk
}

// summarize walks over the directory of d, which is read-only. If a part of that can't be listed, it sums up the others, and
// returns an error too.
func summarize(ctx context.Context, d *modcache.Disk, mine string) (summary, error) {
	sum := summary{Dir: d.Dir(), Engines: []engineSummary{}, Limits: limitsOf(environ.Read(os.Getenv))}
	engines := make(map[string]*engineSummary)
	var unlisted error
	for e, err := range d.Walk(ctx) {
		if err != nil {
			unlisted = err
			break // it comes last
		}
		sum.Entries++
		sum.Bytes += e.Stored
		if e.Err != nil {
			sum.Unreadable++
			if errors.Is(e.Err, modcache.ErrOtherKey) {
				sum.sealed++
			}
			continue
		}
		if isAlias(e.Info) {
			sum.Aliases++
		} else {
			sum.CodeBytes += e.Size
		}
		sum.CompileTime += int64(e.Info.CompileTime)
		used, created := sane(e.Used), sane(e.Info.Created)
		if isServed(e) {
			sum.Served++
		}
		engine := engineOf(ctx, d, e)
		en := engines[engine]
		if en == nil {
			en = &engineSummary{Engine: engine, This: engine == mine,
				OldestUse: used, LatestUse: used, Oldest: created, Latest: created}
			engines[engine] = en
		}
		en.Entries++
		en.Bytes += e.Stored
		en.OldestUse, en.LatestUse = stretch(en.OldestUse, en.LatestUse, used)
		en.Oldest, en.Latest = stretch(en.Oldest, en.Latest, created)
	}
	for _, en := range engines {
		sum.Engines = append(sum.Engines, *en)
	}
	slices.SortFunc(sum.Engines, func(a, b engineSummary) int {
		return cmp.Or(b.LatestUse.Compare(a.LatestUse), cmp.Compare(a.Engine, b.Engine))
	})
	sum.Other = otherFiles(d.Dir())
	if fi, err := os.Lstat(filepath.Join(d.Dir(), layout.Trimmed)); err == nil && fi.ModTime().Year() <= 9999 {
		t := fi.ModTime().UTC()
		sum.LastTrim = &t
	}
	if free, total, err := freeSpace(d.Dir()); err == nil {
		sum.FreeBytes, sum.TotalBytes = free, total
	}
	return sum, unlisted
}

func stretch(oldest, latest, t time.Time) (time.Time, time.Time) {
	if t.Before(oldest) {
		oldest = t
	}
	if t.After(latest) {
		latest = t
	}
	return oldest, latest
}

func freeSpace(dir string) (free, total int64, err error) {
	tree, err := dirfs.Open(dir)
	if err != nil {
		return 0, 0, err
	}
	defer tree.Close()
	return tree.Space()
}

// otherFiles counts what a Disk keeps beside the entries of its format.
func otherFiles(dir string) []kindSummary {
	others := []kindSummary{}
	count := func(kind string, of func(name string) bool, subs ...string) {
		k := kindSummary{Kind: kind}
		for _, sub := range subs {
			files, _ := os.ReadDir(filepath.Join(dir, sub))
			for _, f := range files {
				if fi, err := f.Info(); err == nil && fi.Mode().IsRegular() && of(f.Name()) {
					k.Files++
					k.Bytes += dirfs.Taken(fi)
				}
			}
		}
		if k.Files > 0 {
			others = append(others, k)
		}
	}
	all := func(string) bool { return true }
	count("being written, or left by a crash", all, layout.Temp)
	count("damaged, in quarantine", all, layout.Quarantine)
	count("locks", all, layout.Locks)
	count("of another format", func(name string) bool {
		_, version, ok := layout.ParseEntry(name)
		return ok && version != layout.Version
	}, strings.Split(layout.Shards, "")...)
	return others
}

var statCommand = command{
	name:  "stat",
	short: "sum up a cache: bytes, entries, engines, ages",
	long: `
Sums up what a cache directory holds, for each engine that compiled something
in it. The engine of this tool, or that of -program or -engine-id, is marked
with a star: programs with another one don't find those entries. Entries that
modcache serve keeps for its clients count for the engine of the code in them.

The limits are those of programs that set none: MODCACHE_MAX_BYTES, or else
the default. If a part of the directory can't be listed, the exit code is 1.`,
	make: func(fs *flag.FlagSet) action {
		var dir dirFlags
		var en engineFlags
		dir.register(fs)
		en.register(fs)
		asJSON := fs.Bool("json", false, "one JSON object")
		return func(ctx context.Context, s *streams, _ []string) error {
			mine, err := en.resolve()
			if err != nil && (en.program != "" || en.id != "") {
				return err
			}
			d, err := dir.open(ctx, s, readOnly, false)
			if err != nil {
				return err
			}
			defer d.Close()
			sum, err := summarize(ctx, d, mine.id)
			if *asJSON {
				_ = s.json(sum)
			} else {
				printSummary(s, sum)
			}
			return err
		}
	},
}

func printSummary(s *streams, sum summary) {
	now := time.Now()
	t := s.table()
	fmt.Fprintf(t, "directory\t%s\n", sum.Dir)
	fmt.Fprintf(t, "entries\t%d, %s on disk, %s of machine code\n", sum.Entries, bytesize.Format(sum.Bytes), bytesize.Format(sum.CodeBytes))
	maxBytes, maxAge := byteCount(sum.Limits.MaxBytes), age(sum.Limits.MaxAge)
	fmt.Fprintf(t, "size limit\t%s, of which %.1f%% is used; %s\n", &maxBytes,
		100*float64(sum.Bytes)/float64(sum.Limits.MaxBytes), cmp.Or(sum.Limits.Problem, sum.Limits.Why))
	fmt.Fprintf(t, "age limit\t%s without use%s\n", &maxAge, longestUnused(now, sum.Engines))
	if sum.Aliases > 0 {
		fmt.Fprintf(t, "aliases\t%d of them, for other spellings of a module\n", sum.Aliases)
	}
	if sum.Served > 0 {
		fmt.Fprintf(t, "of a server\t%d of them, for its clients; programs don't find them here\n", sum.Served)
	}
	if sum.CompileTime > 0 {
		fmt.Fprintf(t, "compiling\ttook %s\n", tookText(time.Duration(sum.CompileTime)))
	}
	if sum.Unreadable > 0 {
		fmt.Fprintf(t, "unreadable\t%d; modcache verify says why\n", sum.Unreadable)
	}
	for _, k := range sum.Other {
		fmt.Fprintf(t, "other files\t%d %s, %s\n", k.Files, k.Kind, bytesize.Format(k.Bytes))
	}
	if sum.LastTrim != nil {
		fmt.Fprintf(t, "last trim\t%s\n", agoText(now, *sum.LastTrim))
	}
	if sum.TotalBytes > 0 {
		fmt.Fprintf(t, "free\t%s of %s\n", bytesize.Format(sum.FreeBytes), bytesize.Format(sum.TotalBytes))
	}
	_ = t.Flush()
	if len(sum.Engines) == 0 {
		return
	}
	t = s.table()
	fmt.Fprintln(t, "\nENTRIES\tON DISK\tCOMPILED\tUSED\tENGINE")
	for _, en := range sum.Engines {
		star := ""
		if en.This {
			star = " *"
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s%s\n", en.Entries, bytesize.Format(en.Bytes),
			span(now, en.Oldest, en.Latest), span(now, en.OldestUse, en.LatestUse), printable(en.Engine), star)
	}
	_ = t.Flush()
}

// longestUnused says how near entries are to the limit of their age.
func longestUnused(now time.Time, engines []engineSummary) string {
	if len(engines) == 0 {
		return ""
	}
	oldest := slices.MinFunc(engines, func(a, b engineSummary) int { return a.OldestUse.Compare(b.OldestUse) })
	return ", the longest unused entry: " + agoText(now, oldest.OldestUse)
}

// span writes two ages as one if they read the same.
func span(now, oldest, latest time.Time) string {
	a, b := agoText(now, oldest), agoText(now, latest)
	if a == b {
		return a
	}
	return strings.TrimSuffix(a, " ago") + " to " + b
}

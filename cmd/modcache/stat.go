package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bytesize"
	"github.com/modcache/modcache/internal/dirfs"
)

// summary is what stat tells about a directory.
type summary struct {
	Dir         string          `json:"dir"`
	Entries     int             `json:"entries"`
	Bytes       int64           `json:"bytes"`           // on disk
	CodeBytes   int64           `json:"code_bytes"`      // of machine code in them
	CompileTime int64           `json:"compile_time_ns"` // that they save together, as far as they say
	Aliases     int             `json:"aliases"`         // entries that lead to the code of another
	Unreadable  int             `json:"unreadable"`
	Engines     []engineSummary `json:"engines"`
	Other       []kindSummary   `json:"other"` // what isn't an entry of this format
	LastTrim    *time.Time      `json:"last_trim,omitempty"`
	FreeBytes   int64           `json:"free_bytes,omitempty"`
	TotalBytes  int64           `json:"total_bytes,omitempty"`
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
	Bytes int64  `json:"bytes"`
}

// summarize walks over the directory of d.
func summarize(ctx context.Context, d *modcache.Disk, mine string) (summary, error) {
	sum := summary{Dir: d.Dir(), Engines: []engineSummary{}}
	engines := make(map[string]*engineSummary)
	for e, err := range d.Walk(ctx) {
		if err != nil {
			return sum, err
		}
		sum.Entries++
		sum.Bytes += e.Stored
		if e.Err != nil {
			sum.Unreadable++
			continue
		}
		if isAlias(e) {
			sum.Aliases++
		} else {
			sum.CodeBytes += e.Size
		}
		sum.CompileTime += int64(e.Info.CompileTime)
		used, created := sane(e.Used), sane(e.Info.Created)
		en := engines[e.Info.Engine]
		if en == nil {
			en = &engineSummary{Engine: e.Info.Engine, This: e.Info.Engine == mine,
				OldestUse: used, LatestUse: used, Oldest: created, Latest: created}
			engines[e.Info.Engine] = en
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
	if fi, err := os.Lstat(filepath.Join(d.Dir(), "trimmed")); err == nil {
		t := fi.ModTime().UTC()
		sum.LastTrim = &t
	}
	if free, total, err := freeSpace(d.Dir()); err == nil {
		sum.FreeBytes, sum.TotalBytes = free, total
	}
	return sum, nil
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
	kinds := map[string]*kindSummary{}
	count := func(kind, sub string, of func(name string) bool) {
		entries, _ := os.ReadDir(filepath.Join(dir, sub))
		for _, e := range entries {
			fi, err := e.Info()
			if err != nil || !fi.Mode().IsRegular() || !of(e.Name()) {
				continue
			}
			k := kinds[kind]
			if k == nil {
				k = &kindSummary{Kind: kind}
				kinds[kind] = k
			}
			k.Files++
			k.Bytes += fi.Size()
		}
	}
	all := func(string) bool { return true }
	for _, digit := range "0123456789abcdef" {
		count("of another format", string(digit), func(name string) bool {
			key, version, ok := strings.Cut(name, ".v")
			_, err := modcache.ParseKey(key)
			return ok && err == nil && version != "1"
		})
	}
	count("damaged, in quarantine", "quarantine", all)
	count("being written, or left by a crash", "tmp", all)
	count("locks", "lock", all)
	others := []kindSummary{}
	for _, k := range kinds {
		others = append(others, *k)
	}
	slices.SortFunc(others, func(a, b kindSummary) int { return cmp.Compare(a.Kind, b.Kind) })
	return others
}

var statCommand = command{
	name:  "stat",
	short: "sum up a cache: bytes, entries, engines, ages",
	long: `
Sums up what a cache directory holds, for each engine that compiled something
in it. The engine of this tool, or that of -program or -engine-id, is marked
with a star: programs with another one don't find those entries.`,
	make: func(fs *flag.FlagSet) action {
		var dir dirFlags
		var en engineFlags
		dir.register(fs)
		en.register(fs)
		asJSON := fs.Bool("json", false, "one JSON object")
		return func(ctx context.Context, s *streams, args []string) error {
			if len(args) > 0 {
				return usagef("stat takes no arguments; the directory goes into -dir")
			}
			mine, err := en.resolve()
			if err != nil && (en.program != "" || en.id != "") {
				return err
			}
			d, err := dir.read()
			if err != nil {
				return err
			}
			defer d.Close()
			sum, err := summarize(ctx, d, mine.id)
			if err != nil {
				return err
			}
			if *asJSON {
				return writeJSON(s, sum)
			}
			return printSummary(s, sum)
		}
	},
}

func writeJSON(s *streams, v any) error {
	out := json.NewEncoder(s.out)
	out.SetIndent("", "  ")
	return out.Encode(v)
}

func printSummary(s *streams, sum summary) error {
	now := time.Now()
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "directory\t%s\n", sum.Dir)
	fmt.Fprintf(t, "entries\t%d, %s on disk, %s of machine code\n", sum.Entries, bytesize.Format(sum.Bytes), bytesize.Format(sum.CodeBytes))
	if sum.Aliases > 0 {
		fmt.Fprintf(t, "aliases\t%d of them, for other spellings of a module\n", sum.Aliases)
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
	if err := t.Flush(); err != nil || len(sum.Engines) == 0 {
		return err
	}
	t = tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nENTRIES\tON DISK\tCOMPILED\tUSED\tENGINE")
	for _, en := range sum.Engines {
		star := ""
		if en.This {
			star = " *"
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s%s\n", en.Entries, bytesize.Format(en.Bytes),
			span(now, en.Oldest, en.Latest), span(now, en.OldestUse, en.LatestUse), printable(en.Engine), star)
	}
	return t.Flush()
}

// span writes two ages as one if they read the same.
func span(now, oldest, latest time.Time) string {
	a, b := agoText(now, oldest), agoText(now, latest)
	if a == b {
		return a
	}
	return strings.TrimSuffix(a, " ago") + " to " + b
}

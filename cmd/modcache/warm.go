package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/tetratelabs/wazero"
	"golang.org/x/sync/errgroup"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/internal/wazerohook"
)

var warmCommand = command{
	name: "warm", args: "file-or-directory...",
	short: "compile modules into a cache, for image builds and deployments",
	long: `
Compiles WebAssembly modules and stores their machine code, so that the first
start of a program finds it. Of a directory, all files below it that end in
.wasm are taken. What is stored already is loaded to see that it can be, and
not compiled again. An interrupted run leaves what it has finished.

A program finds what is stored here only if all of this is the same there:

  - the build of wazero, by module version and checksum, not by version alone.
    That of this tool is the one it was built with. To get the program's, run
    in the program's module:
        go get -tool github.com/modcache/modcache/cmd/modcache
        go tool modcache warm -dir /cache ./plugins
    With -program, nothing is compiled unless the two are the same.
  - operating system, architecture and CPU features: run it on, or in an image
    for, a machine like those that run the program.
  - the settings of the program's wazero.RuntimeConfig: give the flags below
    that say the same.
  - the way in: Cache.NewRuntime, or with -drop-in Cache.CompilationCache and
    Cache.Attach, which use keys of their own.

modcache doctor tells which of them is different.

With -to, the code goes to a server and not to a directory, signed with the key
of -sign: the build compiles, and the nodes read. What the server has already
is downloaded to see that it can be loaded.
` + urlHelp,
	make: func(fs *flag.FlagSet) action {
		w := &warmer{}
		w.dir.register(fs)
		w.engineFlags.register(fs)
		w.configFlags.register(fs)
		fs.BoolVar(&w.dropIn, "drop-in", false, "for programs that use Cache.CompilationCache or Attach, not NewRuntime")
		fs.BoolVar(&w.require, "require", false, "compile nothing, write nothing, and exit with 3 if anything is missing or damaged")
		fs.IntVar(&w.jobs, "jobs", 0, "how many modules to compile at once, such as `4`; 0 = one per CPU, divided by -workers")
		fs.IntVar(&w.workers, "workers", 1, "so many goroutines, such as `2`, compile one module; see Options.Workers")
		fs.BoolVar(&w.compress, "compress", false, "store compressed: a quarter of the space, slower starts; see DiskOptions.Compress")
		fs.BoolVar(&w.asJSON, "json", false, "one JSON object in the end; what failed is on standard error, too")
		fs.StringVar(&w.to, "to", "", "store on the server at this URL, such as `https://cache.example/modcache`, and not in a directory")
		w.trust.register(fs, true, false)
		w.mode.register(fs)
		fs.Var(&w.maxBytes, "max-bytes", "drop what went unused longest beyond this size, such as `2GiB`; by default nothing is dropped")
		return w.run
	},
}

type warmer struct {
	dir dirFlags
	engineFlags
	configFlags
	dropIn, require, compress bool
	asJSON                    bool
	jobs, workers             int
	maxBytes                  byteCount
	mode                      modeFlag
	to                        string
	trust                     trustFlags

	disk   *keeper
	server *uploader // if set, in the place of disk
	engine string
	rc     wazero.RuntimeConfig
}

func (w *warmer) run(ctx context.Context, s *streams, operands []string) error {
	if w.to != "" || w.trust.sign+w.trust.secret != "" {
		return w.toServer(ctx, s, operands)
	}
	files, err := w.prepare(ctx, operands)
	if err != nil {
		return err
	}
	o := modcache.DiskOptions{ReadOnly: w.require, MaxBytes: int64(w.maxBytes), Compress: w.compress}
	if dir, err := w.dir.path(); err == nil {
		w.mode.begin(dir)
	}
	disk, err := w.dir.open(ctx, s, o, !w.require)
	if err != nil {
		return err
	}
	defer disk.Close()
	w.disk = &keeper{Disk: disk, bounded: w.maxBytes > 0}

	done := w.all(ctx, s, files)
	var beyond error
	if !w.require {
		// What was finished before an interruption is kept like everything else.
		beyond = w.disk.keepWithin(ctx)
		err = errors.Join(w.disk.Flush(context.WithoutCancel(ctx)), w.mode.end(w.disk.Dir()))
	}
	if err = cmp.Or(err, ctx.Err()); err != nil {
		return err
	}
	if err := errors.Join(w.outcome(s, done), beyond); err != nil || w.require {
		return err
	}
	return w.disk.missed(ctx)
}

// prepare finds out for whom to compile what.
func (w *warmer) prepare(ctx context.Context, operands []string) (files []string, err error) {
	if err := w.check(operands); err != nil {
		return nil, err
	}
	en, err := w.resolve()
	if err != nil {
		return nil, err
	}
	w.engine = en.id
	if _, err := wazerohook.Probe(); err != nil {
		return nil, fmt.Errorf("nothing can be cached on %s with the wazero in this tool: %w", platform(), err)
	}
	if err := en.check(); err != nil {
		return nil, err
	}
	if w.rc, err = w.config(); err != nil {
		return nil, err
	}
	return findModules(ctx, operands)
}

func (w *warmer) check(operands []string) error {
	switch {
	case len(operands) == 0:
		return usagef("name modules, or directories of modules")
	case w.jobs < 0 || w.workers < 1:
		return usagef("-jobs can't be negative, and -workers has to be at least 1")
	case w.require && (w.compress || w.maxBytes > 0 || w.mode.mode != 0):
		return usagef("-require writes nothing, so that -compress, -max-bytes and -mode have no meaning")
	case w.dir.group && w.mode.mode != 0:
		return usagef("-group and -mode exclude each other: what is shared has the mode of the directory")
	}
	if w.jobs == 0 {
		w.jobs = max(1, runtime.GOMAXPROCS(0)/w.workers)
	}
	return nil
}

// findModules returns the files that operands name: a file as it is, and
// everything that ends in .wasm below a directory.
func findModules(ctx context.Context, operands []string) ([]string, error) {
	var files []string
	seen := make(map[string]bool)
	add := func(name string) {
		if clean := filepath.Clean(name); !seen[clean] {
			seen[clean] = true
			files = append(files, clean)
		}
	}
	for _, operand := range operands {
		fi, err := os.Stat(operand)
		if err != nil {
			return nil, err
		}
		if !fi.IsDir() {
			add(operand)
			continue
		}
		before := len(seen)
		// The slash makes it walk into a directory behind a symbolic link.
		err = filepath.WalkDir(operand+string(filepath.Separator), func(name string, d fs.DirEntry, err error) error {
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case err != nil: // the others can be had: this one fails when it is to be read
				add(name)
				return nil
			}
			if strings.EqualFold(filepath.Ext(name), ".wasm") && isFile(name, d) {
				add(name)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if len(seen) == before {
			return nil, fmt.Errorf("no file below %s ends in .wasm; name the modules themselves", operand)
		}
	}
	return files, nil
}

// isFile reports whether an entry of a directory is a regular file, or a link to one.
func isFile(name string, d fs.DirEntry) bool {
	if d.Type()&fs.ModeSymlink == 0 {
		return d.Type().IsRegular()
	}
	fi, err := os.Stat(name)
	return err == nil && fi.Mode().IsRegular()
}

// What became of a module.
const (
	compiled = "compiled"
	present  = "present"
	absent   = "missing"
	failed   = "failed"
)

// warmReport is what warm tells scripts.
type warmReport struct {
	Compiled int           `json:"compiled"`
	Present  int           `json:"present"`
	Missing  int           `json:"missing"`
	Failed   int           `json:"failed"`
	Modules  []moduleReady `json:"modules"`
}

// moduleReady is what became of a module.
type moduleReady struct {
	File    string `json:"file"`
	Outcome string `json:"outcome"` // compiled, present, missing or failed
	Error   string `json:"error,omitempty"`
}

func reportOf(done []moduleReady) warmReport {
	r := warmReport{Modules: done}
	for _, m := range done {
		switch m.Outcome {
		case compiled:
			r.Compiled++
		case present:
			r.Present++
		case absent:
			r.Missing++
		case failed:
			r.Failed++
		}
	}
	return r
}

// outcome sums up what became of the modules.
func (w *warmer) outcome(s *streams, done []moduleReady) error {
	r := reportOf(done)
	switch {
	case w.asJSON:
		slices.SortFunc(r.Modules, func(a, b moduleReady) int { return strings.Compare(a.File, b.File) })
		if err := s.json(r); err != nil {
			return err
		}
	case !w.require:
		fmt.Fprintf(s.out, "%d compiled, %d present, %d failed\n", r.Compiled, r.Present, r.Failed)
	}
	switch {
	case r.Failed > 0:
		return fmt.Errorf("%d of %s failed; see above", r.Failed, plural(len(r.Modules), "module", "modules"))
	case r.Missing > 0:
		text := fmt.Sprintf("%d of %s missing; modcache doctor, with the same flags and a module, says why",
			r.Missing, plural(len(r.Modules), "module is", "modules are"))
		if n := w.disk.Metrics().Corrupt; n > 0 {
			text += fmt.Sprintf("; %s damaged or sealed otherwise, see modcache verify", plural(int(n), "entry is", "entries are"))
		}
		return foundError(text)
	}
	return nil
}

// all warms the files, several at once, and says what became of those that it came to.
func (w *warmer) all(ctx context.Context, s *streams, files []string) []moduleReady {
	if w.asJSON {
		quiet := *s
		quiet.out = io.Discard
		s = &quiet
	}
	p := newProgress(s, len(files))
	var g errgroup.Group
	g.SetLimit(w.jobs)
	for _, file := range files {
		g.Go(func() error {
			if ctx.Err() == nil {
				what, detail := w.one(ctx, p, file)
				if what != failed || ctx.Err() == nil { // or else it isn't the module's fault
					p.finish(file, what, detail)
				}
			}
			return nil
		})
	}
	_ = g.Wait()
	return p.close()
}

// one warms a file and says what became of it. It has a Cache of its own, whose events
// are about this file.
func (w *warmer) one(ctx context.Context, p *progress, file string) (what, detail string) {
	wasm, err := readModule(ctx, file)
	if errors.Is(err, errNotModule) {
		err = errNotModule // the name stands beside it
	}
	if err != nil {
		return failed, ": " + plain(err)
	}
	store, end, err := w.store()
	if err != nil {
		return failed, ": " + plain(err)
	}
	var seen trouble
	cache, err := modcache.New(store, &modcache.Options{
		RequireHit: w.require, ReadOnly: w.require, Workers: w.workers, MaxCompiles: -1, Retain: -1, EngineID: w.engine,
		OnEvent: func(e modcache.Event) {
			switch e.Kind {
			case modcache.EventCompileStarted:
				p.compiling(file)
			case modcache.EventStoreFailed, modcache.EventCorrupt, modcache.EventDegraded:
				seen.observe(e)
			}
		},
	})
	if err != nil {
		return failed, ": " + plain(errors.Join(err, end(ctx)))
	}
	r := w.warm(ctx, cache, modcache.NewModule(wasm).Named(filepath.Base(file)))
	err = errors.Join(cause(r.Err), cache.Close(context.WithoutCancel(ctx)), end(ctx))
	switch {
	case errors.Is(err, modcache.ErrMiss):
		return absent, ""
	case err != nil && seen.err() != nil:
		return failed, fmt.Sprintf(": %s (%s)", plain(err), plain(seen.err()))
	case err != nil:
		return failed, ": " + plain(err)
	case r.Compiled:
		return compiled, " in " + tookText(r.Duration)
	}
	return present, ""
}

// warm makes sure that the code is in the store, or with -require that it was.
func (w *warmer) warm(ctx context.Context, cache *modcache.Cache, m *modcache.Module) (r modcache.WarmResult) {
	if !w.dropIn {
		for r = range cache.WarmEach(ctx, w.rc, m) {
		}
		return r
	}
	start := time.Now()
	for range 2 { // a second runtime finds what the first has stored
		// wazero's compiler panics on some modules, valid ones or not.
		r.Err = contain.Call(func() error {
			cc := wazero.NewCompilationCache()
			if err := cache.Attach(cc); err != nil {
				return err
			}
			runtime := wazero.NewRuntimeWithConfig(ctx, w.rc.WithCompilationCache(cc))
			_, err := runtime.CompileModule(ctx, m.Bytes())
			return errors.Join(err, runtime.Close(ctx), cc.Close(ctx))
		})
		// What wazero does is seen in the lookups only.
		m := cache.Metrics()
		r.Compiled, r.Duration = m.Misses > 0, cmp.Or(r.Duration, time.Since(start)) // of the first
		if r.Err != nil || w.require || m.Hits > 0 {
			return r
		}
	}
	r.Err = errors.New("the store did not keep it")
	return r
}

package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"sync"

	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
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

modcache doctor tells which of them is different.`,
	make: func(fs *flag.FlagSet) action {
		w := &warmer{}
		w.dir.register(fs)
		w.engineFlags.register(fs)
		w.configFlags.register(fs)
		fs.BoolVar(&w.dropIn, "drop-in", false, "for programs that use Cache.CompilationCache or Attach, not NewRuntime")
		fs.BoolVar(&w.require, "require", false, "compile nothing, write nothing, and exit with 3 if anything is missing or damaged")
		fs.IntVar(&w.jobs, "jobs", 0, "how many modules to compile at once, `n`; 0 = one per CPU, divided by -workers")
		fs.IntVar(&w.workers, "workers", 1, "`n` goroutines compile one module; see Options.Workers")
		fs.BoolVar(&w.compress, "compress", false, "store compressed: a quarter of the space, slower starts; see DiskOptions.Compress")
		fs.Var(&w.maxBytes, "max-bytes", "drop what went unused longest beyond this `size`; by default nothing is dropped")
		return w.run
	},
}

type warmer struct {
	dir dirFlags
	engineFlags
	configFlags
	dropIn, require, compress bool
	jobs, workers             int
	maxBytes                  byteCount

	disk   *modcache.Disk
	engine string
	rc     wazero.RuntimeConfig
}

func (w *warmer) run(ctx context.Context, s *streams, operands []string) error {
	if err := w.check(operands); err != nil {
		return err
	}
	en, err := w.resolve()
	if err != nil {
		return err
	}
	w.engine = en.id
	if _, err := wazerohook.Probe(); err != nil {
		return fmt.Errorf("nothing can be cached on %s with the wazero in this tool: %w", platform(), err)
	}
	if err := en.check(); err != nil {
		return err
	}
	if w.rc, err = w.config(); err != nil {
		return err
	}
	files, err := findModules(ctx, operands)
	if err != nil {
		return err
	}
	if w.disk, err = w.open(); err != nil {
		return err
	}
	defer w.disk.Close()

	t, err := w.all(ctx, s, files)
	if err == nil && !w.require {
		// What was finished before an interruption is kept like everything else.
		err = w.disk.Flush(context.WithoutCancel(ctx))
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	return w.outcome(s, t)
}

func (w *warmer) check(operands []string) error {
	switch {
	case len(operands) == 0:
		return usagef("name modules, or directories of modules")
	case w.jobs < 0 || w.workers < 1:
		return usagef("-jobs can't be negative, and -workers has to be at least 1")
	case w.require && (w.compress || w.maxBytes > 0):
		return usagef("-require writes nothing, so that -compress and -max-bytes have no meaning")
	}
	if w.jobs == 0 {
		w.jobs = max(1, runtime.GOMAXPROCS(0)/w.workers)
	}
	return nil
}

func (w *warmer) open() (*modcache.Disk, error) {
	if w.require {
		return w.dir.read()
	}
	return w.dir.write(true, modcache.DiskOptions{MaxBytes: int64(w.maxBytes), Compress: w.compress})
}

// tally counts outcomes.
type tally struct{ compiled, present, missing, failed int }

func (w *warmer) outcome(s *streams, t tally) error {
	if !w.require {
		if _, err := fmt.Fprintf(s.out, "%d compiled, %d present, %d failed\n", t.compiled, t.present, t.failed); err != nil {
			return err
		}
	}
	total := t.compiled + t.present + t.missing + t.failed
	switch {
	case t.failed > 0:
		return fmt.Errorf("%d of %s failed; see above", t.failed, plural(total, "module", "modules"))
	case t.missing > 0:
		text := fmt.Sprintf("%d of %s missing; modcache doctor, with the same flags and a module, says why",
			t.missing, plural(total, "module is", "modules are"))
		if n := w.disk.Metrics().Corrupt; n > 0 {
			text += fmt.Sprintf("; %s damaged or sealed otherwise, see modcache verify", plural(int(n), "entry is", "entries are"))
		}
		return foundError(text)
	}
	return nil
}

// all warms the files, several at once.
func (w *warmer) all(ctx context.Context, s *streams, files []string) (t tally, err error) {
	p := newProgress(s, len(files))
	var mu sync.Mutex // guards t
	var wg sync.WaitGroup
	free := make(chan struct{}, w.jobs)
	for _, file := range files {
		free <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-free }()
			line, count := w.one(ctx, p, file)
			out := s.out
			if count.failed > 0 {
				if ctx.Err() != nil {
					return // not the module's fault
				}
				out = s.err
			}
			p.finish(file, out, line)
			mu.Lock()
			defer mu.Unlock()
			t.compiled += count.compiled
			t.present += count.present
			t.missing += count.missing
			t.failed += count.failed
		})
	}
	wg.Wait()
	return t, p.close()
}

// one warms a file and says how that went. It has a Cache of its own, whose metrics
// tell what was done for this file.
func (w *warmer) one(ctx context.Context, p *progress, file string) (line string, count tally) {
	name := printable(file)
	wasm, err := os.ReadFile(file)
	if err != nil {
		return fmt.Sprintf("failed    %s: %s", name, plain(err)), tally{failed: 1}
	}
	var trouble error
	cache, err := modcache.New(w.disk, &modcache.Options{
		RequireHit: w.require, ReadOnly: w.require, Workers: w.workers, MaxCompiles: -1, Retain: -1, EngineID: w.engine,
		OnEvent: func(e modcache.Event) {
			switch e.Kind {
			case modcache.EventCompileStarted:
				p.compiling(file)
			case modcache.EventStoreFailed, modcache.EventCorrupt, modcache.EventDegraded:
				trouble = cmp.Or(trouble, e.Err)
			}
		},
	})
	if err != nil {
		return err.Error(), tally{failed: 1}
	}
	err = w.compile(ctx, cache, wasm)
	err = errors.Join(err, cache.Close(context.WithoutCancel(ctx)))
	m := cache.Metrics()
	// The drop-in compiles in wazero, where only the lookup that missed is seen.
	compiled := m.Compiles > 0 || w.dropIn && m.Misses > 0
	switch {
	case err == nil && !compiled:
		return "present   " + name, tally{present: 1}
	case errors.Is(err, modcache.ErrMiss):
		return "missing   " + name, tally{missing: 1}
	case err != nil:
		if trouble != nil {
			err = fmt.Errorf("%w (%s)", err, plain(trouble))
		}
		return fmt.Sprintf("failed    %s: %s", name, plain(err)), tally{failed: 1}
	}
	line = "compiled  " + name
	if m.CompileTime > 0 {
		line += " in " + tookText(m.CompileTime)
	}
	return line, tally{compiled: 1}
}

// compile makes sure that the code is in the store, or with -require that it was.
func (w *warmer) compile(ctx context.Context, cache *modcache.Cache, wasm []byte) (err error) {
	defer func() {
		// wazero's compiler panics on some modules, valid ones or not.
		if r := recover(); r != nil {
			err = fmt.Errorf("wazero panicked while it compiled the module: %v", r)
		}
	}()
	if !w.dropIn {
		return cache.Warm(ctx, w.rc, modcache.NewModule(wasm))
	}
	for range 2 { // a second runtime finds what the first has stored
		cc := wazero.NewCompilationCache()
		if err := cache.Attach(cc); err != nil {
			return err
		}
		r := wazero.NewRuntimeWithConfig(ctx, w.rc.WithCompilationCache(cc))
		_, err := r.CompileModule(ctx, wasm)
		err = errors.Join(err, r.Close(ctx), cc.Close(ctx))
		if err != nil {
			return err
		}
		if m := cache.Metrics(); w.require || m.Hits > 0 {
			return nil
		}
	}
	return errors.New("the store did not keep it")
}

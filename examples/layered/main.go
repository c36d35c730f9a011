// Command layered keeps machine code in three layers: in memory, on the machine's own
// disk, and in a directory that a fleet of machines shares. What one machine compiled,
// the others load, even those that start much later.
//
//	go run ./examples/layered
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/examples/internal/guest"
)

func main() {
	flag.Parse()
	ctx := context.Background()
	err := func() error {
		tmp, err := os.MkdirTemp("", "layered")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		wasm, err := guest.Load(ctx, flag.Arg(0))
		if err != nil {
			return err
		}
		return run(ctx, os.Stdout, tmp, modcache.NewModule(wasm))
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "layered:", err)
		os.Exit(1)
	}
}

// machine is one member of the fleet.
type machine struct {
	name    string
	local   *modcache.Disk
	fleet   *modcache.Disk
	layered *modcache.Layered
	cache   *modcache.Cache
}

// start opens the stores of a machine. own is its own directory, shared one that all
// machines have mounted.
func start(name, own, shared string, out io.Writer) (_ *machine, err error) {
	m := &machine{name: name}
	defer func() {
		if err != nil {
			_ = m.stop(context.Background())
		}
	}()
	if m.local, err = modcache.OpenDisk(own, nil); err != nil {
		return nil, err
	}
	// In a real fleet, others can write there: a Key that all machines know keeps
	// strangers from putting code into them.
	if m.fleet, err = modcache.OpenDisk(shared, &modcache.DiskOptions{
		Key: []byte("in a program of yours, a secret"), Compress: true,
	}); err != nil {
		return nil, err
	}
	m.layered = modcache.NewLayered(&modcache.LayeredOptions{OnEvent: func(e modcache.Event) {
		if e.Kind == modcache.EventHit {
			fmt.Fprintf(out, "%s: found in %s\n", name, e.Layer)
		}
	}},
		modcache.Layer{Name: "memory", Store: modcache.NewMemory(nil)},
		modcache.Layer{Name: "disk", Store: m.local},
		// Nobody waits for the fleet: it is written in the background, and a lookup that
		// takes two seconds is a miss.
		modcache.Layer{Name: "fleet", Store: m.fleet, Write: modcache.WriteBehind, Timeout: 2 * time.Second},
	)
	m.cache, err = modcache.New(m.layered, &modcache.Options{
		Retain: -1, // give code back at once; it is here to show lookups
		OnEvent: func(e modcache.Event) {
			if e.Kind == modcache.EventCompileFinished {
				fmt.Fprintf(out, "%s: compiled\n", name)
			}
		},
	})
	return m, err
}

// stop closes from the top down, after the background has been written.
func (m *machine) stop(ctx context.Context) error {
	var err error
	if m.cache != nil {
		err = m.cache.Flush(ctx)
		_ = m.cache.Close(ctx)
	}
	if m.layered != nil {
		_ = m.layered.Close()
	}
	for _, d := range []*modcache.Disk{m.local, m.fleet} {
		if d != nil {
			_ = d.Close()
		}
	}
	return err
}

// use compiles the module, or finds it.
func (m *machine) use(ctx context.Context, module *modcache.Module) error {
	r, err := m.cache.NewRuntime(ctx, nil)
	if err != nil {
		return err
	}
	defer r.Close(ctx)
	_, err = r.Compile(ctx, module)
	return err
}

func run(ctx context.Context, out io.Writer, tmp string, module *modcache.Module) error {
	shared := filepath.Join(tmp, "fleet")
	for _, name := range []string{"alpha", "beta", "beta"} { // beta is started twice
		m, err := start(name, filepath.Join(tmp, name), shared, out)
		if err != nil {
			return err
		}
		for range 2 {
			if err := m.use(ctx, module); err != nil {
				return err
			}
			// Layers that were not asked, or too slow, have it by now.
			if err := m.cache.Flush(ctx); err != nil {
				return err
			}
		}
		for _, l := range m.layered.Layers() {
			fmt.Fprintf(out, "%s: %s answered %d\n", name, l.Name, l.Hits)
		}
		if err := m.stop(ctx); err != nil {
			return err
		}
	}
	return nil
}

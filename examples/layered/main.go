// Command layered keeps machine code in three layers: in memory, on the machine's own
// disk, and on a server that a fleet of machines shares. One machine compiles, signs and
// publishes; the others, which have its public key and nothing else, load.
//
//	go run ./examples/layered
//	MODCACHE_TOKEN=… go run ./examples/layered -url https://cache.example/modcache -key build.key
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/examples/guest"
	"github.com/modcache/modcache/remote"
)

func main() {
	url := flag.String("url", "", "`address` of a server such as modcache serve; by default this process serves")
	keyFile := flag.String("key", "", "`file` of modcache keygen with the key that signs; by default a new key")
	flag.Parse()
	ctx := context.Background()
	err := func() error {
		tmp, err := os.MkdirTemp("", "layered")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		f := fleet{url: *url, token: cmp.Or(os.Getenv("MODCACHE_TOKEN"), rand.Text())}
		if f.key, err = signingKey(*keyFile); err != nil {
			return err
		}
		if f.url == "" {
			stop, err := f.serve()
			if err != nil {
				return err
			}
			defer stop()
		}
		wasm, err := guest.Load(ctx, flag.Arg(0))
		if err != nil {
			return err
		}
		return run(ctx, os.Stdout, tmp, f, modcache.NewModule(wasm))
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "layered:", err)
		os.Exit(1)
	}
}

// fleet is what its machines share. In earnest, only the builder has the token and the
// private half of the key.
type fleet struct {
	url   string
	token string
	key   *remote.PrivateKey
}

func signingKey(file string) (*remote.PrivateKey, error) {
	if file == "" {
		return remote.GenerateKey()
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return remote.ParsePrivateKey(strings.TrimSpace(string(b)))
}

// serve starts the server in this process. It keeps what the builder has signed, and
// needs no key for that.
func (f *fleet) serve() (stop func(), err error) {
	h, err := remote.NewHandler(modcache.NewMemory(nil), &remote.HandlerOptions{WriteTokens: []string{f.token}})
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f.url = "http://" + l.Addr().String()
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(l) }()
	return func() { _ = srv.Close() }, nil
}

// builder returns the options of the machine that publishes.
func (f fleet) builder() *remote.Options {
	return &remote.Options{Signer: f.key, Header: http.Header{"Authorization": {"Bearer " + f.token}}}
}

// node returns the options of all others.
func (f fleet) node() *remote.Options {
	return &remote.Options{Keyring: remote.Keyring{Keys: []remote.PublicKey{f.key.Public()}}}
}

// machine is one member of the fleet.
type machine struct {
	name    string
	disk    *modcache.Disk
	fleet   *remote.Store
	layered *modcache.Layered
	cache   *modcache.Cache
}

// start opens the stores of a machine. dir is its own directory.
func start(name, dir, url string, o *remote.Options, out io.Writer) (_ *machine, err error) {
	m := &machine{name: name}
	defer func() {
		if err != nil {
			_ = m.stop(context.Background())
		}
	}()
	if m.disk, err = modcache.OpenDisk(dir, nil); err != nil {
		return nil, err
	}
	// By default, a quarter of a second without an answer is a miss, and the module is
	// compiled. This program would rather wait.
	o.FirstByte, o.Stall = time.Minute, time.Minute
	if m.fleet, err = remote.New(url, o); err != nil {
		return nil, err
	}
	m.layered = modcache.NewLayered(&modcache.LayeredOptions{OnEvent: func(e modcache.Event) {
		if e.Kind == modcache.EventHit {
			fmt.Fprintf(out, "%s: found in %s\n", name, e.Layer)
		}
	}},
		modcache.Layer{Name: "memory", Store: modcache.NewMemory(nil)},
		modcache.Layer{Name: "disk", Store: m.disk},
		modcache.Layer{Name: "fleet", Store: m.fleet, Timeout: -1}, // it has limits of its own
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

// stop closes from the top down, after uploads are through.
func (m *machine) stop(ctx context.Context) error {
	var err error
	if m.cache != nil {
		err = m.cache.Flush(ctx)
		_ = m.cache.Close(ctx)
	}
	if m.layered != nil {
		_ = m.layered.Close()
	}
	if m.fleet != nil {
		_ = m.fleet.Close()
	}
	if m.disk != nil {
		_ = m.disk.Close()
	}
	return err
}

// use compiles the module, or finds it, twice.
func (m *machine) use(ctx context.Context, out io.Writer, module *modcache.Module) error {
	for range 2 {
		r, err := m.cache.NewRuntime(ctx, nil)
		if err != nil {
			return err
		}
		_, err = r.Compile(ctx, module)
		_ = r.Close(ctx)
		if err != nil {
			return err
		}
		// Faster layers that missed it, and the server, have it by now.
		if err := m.cache.Flush(ctx); err != nil {
			return err
		}
	}
	for _, l := range m.layered.Layers() {
		fmt.Fprintf(out, "%s: %s answered %d\n", m.name, l.Name, l.Hits)
	}
	return nil
}

func run(ctx context.Context, out io.Writer, tmp string, f fleet, module *modcache.Module) error {
	for _, member := range []struct {
		name, dir string
		options   *remote.Options
	}{
		{"builder", "builder", f.builder()},
		{"node", "node", f.node()},
		{"node, again", "node", f.node()},
	} {
		m, err := start(member.name, filepath.Join(tmp, member.dir), f.url, member.options, out)
		if err != nil {
			return err
		}
		if err := errors.Join(m.use(ctx, out, module), m.stop(ctx)); err != nil {
			return err
		}
	}
	return nil
}

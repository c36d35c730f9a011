// Command layered keeps machine code in two layers: on the machine's own disk, and on a
// server that a fleet of machines shares. One machine compiles, signs and
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

	patience time.Duration // with the server; 0 is the default, of a network nearby
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
func (f fleet) builder() remote.Options {
	return remote.Options{Signer: f.key, Header: http.Header{"Authorization": {"Bearer " + f.token}}}
}

// node returns the options of all others.
func (f fleet) node() remote.Options {
	return remote.Options{Keyring: remote.Keyring{Keys: []remote.PublicKey{f.key.Public()}}, FirstByte: f.patience, Stall: f.patience}
}

// use is the life of one machine of the fleet, which needs the module. dir is its own directory.
func use(ctx context.Context, out io.Writer, name, dir, url string, o remote.Options, module *modcache.Module) (err error) {
	o.Name = "fleet"
	m, err := remote.OpenFleet(dir, url, &remote.FleetOptions{Remote: o})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close(ctx)) }() // after uploads are through
	r, err := m.NewRuntime(ctx, nil)
	if err != nil {
		return err
	}
	if _, err := r.Compile(ctx, module); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s: compiled %d\n", name, m.Metrics().Compiles)
	for _, l := range m.Layers() {
		fmt.Fprintf(out, "%s: %s answered %d\n", name, l.Name, l.Hits)
	}
	return nil
}

func run(ctx context.Context, out io.Writer, tmp string, f fleet, module *modcache.Module) error {
	for _, member := range []struct {
		name, dir string
		options   remote.Options
	}{
		{"builder", "builder", f.builder()},
		{"node", "node", f.node()},
		{"node, again", "node", f.node()},
	} {
		if err := use(ctx, out, member.name, filepath.Join(tmp, member.dir), f.url, member.options, module); err != nil {
			return err
		}
	}
	return nil
}

// Command pluginhost serves plugins over HTTP. Each tenant has instances and handles of its
// own; the machine code is everybody's, and is kept for the next start. A plugin whose
// file is replaced is reloaded by the next request.
//
//	go run ./examples/pluginhost                # with a plugin that is built on the spot
//	curl -d world localhost:8080/alice/hello
//	curl localhost:8080/debug/modcache
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/modcache/modcache/examples/guest"
)

//go:embed guest/main.go
var hello []byte

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to listen")
	plugins := flag.String("plugins", "", "directory of .wasm files; the default has one plugin, hello")
	cache := flag.String("cache", "", "cache directory; the default is in your cache directory")
	tenants := flag.String("tenants", "alice,bob", "their names")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	context.AfterFunc(ctx, stop) // the second one ends the process
	if err := run(ctx, *addr, *plugins, *cache, strings.Split(*tenants, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "pluginhost:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addr, plugins, cache string, tenants []string) error {
	if plugins == "" {
		tmp, err := os.MkdirTemp("", "plugins")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		plugins = tmp
		wasm, err := build(ctx, "Hello")
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(plugins, "hello.wasm"), wasm, 0o600); err != nil {
			return err
		}
	}
	h, err := newHost(ctx, plugins, cache, tenants, log.Default())
	if err != nil {
		return err
	}
	defer h.close(context.WithoutCancel(ctx))

	srv := &http.Server{Addr: addr, Handler: h.routes(), ReadTimeout: 5 * time.Second}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		last, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		stopped <- srv.Shutdown(last) // waits for requests under way
	}()
	log.Printf("serving the plugins in %s on http://%s", plugins, addr)
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

// build builds the plugin in guest.
func build(ctx context.Context, greeting string) ([]byte, error) {
	return guest.Build(ctx, hello, "-buildmode=c-shared", "-ldflags=-s -w -X main.greeting="+greeting)
}

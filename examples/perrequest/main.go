// Command perrequest is an HTTP server that answers each request in a WebAssembly instance
// of its own, so that no request finds what another has left behind. The guest is a Go program
// that takes tens of milliseconds to set itself up; the instances come from a
// template, which has done that once.
//
//	go run ./examples/perrequest -addr localhost:8080
package main

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"flag"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/examples/guest"
)

//go:embed guest/main.go
var counter []byte

func main() {
	addr := flag.String("addr", "localhost:8080", "where to listen")
	dir := flag.String("cache", "", "the cache directory")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	context.AfterFunc(ctx, stop) // the second one ends the process
	if err := run(ctx, *addr, *dir); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, addr, dir string) error {
	wasm, err := build(ctx)
	if err != nil {
		return err
	}
	s, err := newServer(ctx, dir, wasm)
	if err != nil {
		return err
	}
	defer s.close(context.WithoutCancel(ctx))
	srv := &http.Server{Addr: addr, Handler: s, ReadTimeout: 5 * time.Second}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		last, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		stopped <- srv.Shutdown(last) // waits for requests under way
	}()
	log.Println("listening on", addr)
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

// build compiles the guest, as a library: _initialize sets it up, and handle answers a request.
func build(ctx context.Context) ([]byte, error) {
	return guest.Build(ctx, counter, "-buildmode=c-shared")
}

// server answers each request in an instance of its own.
type server struct {
	cache *modcache.Cache
	r     *modcache.Runtime
	tmpl  *modcache.Template
}

func newServer(ctx context.Context, dir string, wasm []byte) (s *server, err error) {
	s = &server{}
	defer func() {
		if err != nil {
			_ = s.close(ctx)
		}
	}()
	if s.cache, err = modcache.Open(dir, nil); err != nil {
		return s, err
	}
	if s.r, err = s.cache.NewRuntime(ctx, nil); err != nil {
		return s, err
	}
	if err := hostFunctions(ctx, s.r); err != nil {
		return s, err
	}
	s.tmpl, err = s.r.NewTemplate(ctx, modcache.NewModule(wasm), &modcache.TemplateOptions{
		Config: guestConfig(),
		ID:     "_initialize",
		Init:   initialize,
	})
	return s, err
}

// guestConfig has random numbers that differ from request to request: wazero's own source begins anew in
// each instance, and takes longer to make than the rest of it.
func guestConfig() wazero.ModuleConfig {
	return wazero.NewModuleConfig().WithName("").WithStartFunctions().WithRandSource(rand.Reader)
}

func initialize(ctx context.Context, mod api.Module) error {
	_, err := mod.ExportedFunction("_initialize").Call(ctx)
	return err
}

// exchange is a request and its answer, on the way through the context.
type exchange struct{ request, answer []byte }

type exchangeKey struct{}

const maxAnswer = 1 << 20

func hostFunctions(ctx context.Context, r wazero.Runtime) error {
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, r); err != nil {
		return err
	}
	_, err := r.NewHostModuleBuilder("host").
		NewFunctionBuilder().WithFunc(func(ctx context.Context, mod api.Module, buf, size uint32) uint32 {
		x := ctx.Value(exchangeKey{}).(*exchange)
		n := min(size, uint32(len(x.request)))
		if !mod.Memory().Write(buf, x.request[:n]) {
			panic("the guest's buffer is not in its memory")
		}
		return n
	}).Export("input").
		NewFunctionBuilder().WithFunc(func(ctx context.Context, mod api.Module, text, size uint32) {
		b, ok := mod.Memory().Read(text, size)
		x := ctx.Value(exchangeKey{}).(*exchange)
		if !ok || len(x.answer)+len(b) > maxAnswer {
			panic("the guest's answer is not in its memory, or too long")
		}
		x.answer = append(x.answer, b...) // a copy: the memory ends with the instance
	}).Export("output").
		Instantiate(ctx)
	return err
}

// ServeHTTP implements http.Handler.
func (s *server) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, 4096))
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	answer, err := s.answer(req.Context(), body)
	if err != nil {
		log.Println("the guest:", err)
		http.Error(w, "the guest failed", http.StatusBadGateway)
		return
	}
	_, _ = w.Write(answer)
}

func (s *server) answer(ctx context.Context, request []byte) ([]byte, error) {
	mod, err := s.tmpl.Instantiate(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer mod.Close(context.WithoutCancel(ctx))
	return call(ctx, mod, request)
}

// call has an instance answer a request.
func call(ctx context.Context, mod api.Module, request []byte) ([]byte, error) {
	x := &exchange{request: request}
	_, err := mod.ExportedFunction("handle").Call(context.WithValue(ctx, exchangeKey{}, x))
	return x.answer, err
}

func (s *server) close(ctx context.Context) (err error) {
	if s.tmpl != nil {
		err = errors.Join(err, s.tmpl.Close(ctx))
	}
	if s.r != nil {
		err = errors.Join(err, s.r.Close(ctx))
	}
	if s.cache != nil {
		err = errors.Join(err, s.cache.Close(ctx))
	}
	return err
}

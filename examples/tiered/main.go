// Command tiered answers from the first moment on: wazero's interpreter runs a module while its machine code
// is compiled in the background, and the machine code runs it from then on. No request waits for a compile.
//
//	go run ./examples/tiered             # a Go program, built on the spot
//	go run ./examples/tiered module.wasm # a WASI command of yours
//
// It pays where a compile takes much longer than the first answers of the interpreter, and only in the first start
// on a machine: the next one finds the code in the cache. For the Go program (2.6 MB, medians of 5 on 2 busy
// cores), the first answer comes after 0.34 s instead of 1.7 s. The price: an answer takes 20 to 90 ms instead of 1.3, and under
// constant requests, which take the processor from the compile, machine code answers after 4.3 s. So it doesn't pay for
// few long requests, nor for a module that first initialises itself at length.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"github.com/tetratelabs/wazero/sys"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/examples/guest"
)

var dir = flag.String("dir", "", "cache directory; the default is a temporary one, so that the start is cold")

func main() {
	flag.Parse()
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "tiered:", err)
		os.Exit(1)
	}
}

// run asks again and again until the machine code has answered, and says who answered after what time.
func run(ctx context.Context) error {
	wasm, err := guest.Load(ctx, flag.Arg(0))
	if err != nil {
		return err
	}
	if *dir == "" {
		tmp, err := os.MkdirTemp("", "tiered")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		*dir = tmp + "/cache"
	}
	start := time.Now()
	h, err := newHost(ctx, *dir, wasm, nil)
	if err != nil {
		return err
	}
	defer h.close(ctx)
	n := 0
	for said := ""; ; n++ {
		began := time.Now()
		_, by, err := h.answer(ctx)
		if err != nil {
			return err
		}
		if by != said {
			said = by
			fmt.Printf("answer %-4d by %-12s in %-8v %v after the start\n", n+1, by+",",
				time.Since(began).Round(100*time.Microsecond), time.Since(start).Round(time.Millisecond))
		}
		if by == machineCode {
			return nil
		}
		select {
		case <-h.prepared:
			if err := h.failed; err != nil {
				fmt.Println("it stays with the interpreter:", err)
				return nil
			}
		default:
		}
	}
}

// The names of tiers.
const (
	interpreter = "interpreter"
	machineCode = "machine code"
)

// tier is one way to run the module, with the requests that use it.
type tier struct {
	name     string
	r        wazero.Runtime
	compiled wazero.CompiledModule

	mu      sync.Mutex
	users   int
	retired bool
}

func newTier(ctx context.Context, name string, r wazero.Runtime, wasm []byte) (t *tier, err error) {
	t = &tier{name: name, r: r}
	if _, err = wasi_snapshot_preview1.Instantiate(ctx, r); err == nil {
		t.compiled, err = r.CompileModule(ctx, wasm)
	}
	if err != nil {
		_ = r.Close(ctx)
	}
	return t, err
}

// enter reports whether a request may use the tier.
func (t *tier) enter() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.retired {
		t.users++
	}
	return !t.retired
}

func (t *tier) leave() { t.end(func() { t.users-- }) }

// retire closes the tier when the last request has left it.
func (t *tier) retire() { t.end(func() { t.retired = true }) }

func (t *tier) end(change func()) {
	t.mu.Lock()
	change()
	last := t.retired && t.users == 0
	t.mu.Unlock()
	if last {
		_ = t.r.Close(context.Background())
	}
}

// host answers requests by running a module.
type host struct {
	cache    *modcache.Cache
	current  atomic.Pointer[tier]
	prepared chan struct{} // closed when the last tier is in use
	failed   error         // why that isn't machine code; set before prepared is closed
}

// newHost returns a host that can answer at once.
func newHost(ctx context.Context, dir string, wasm []byte, o *modcache.Options) (*host, error) {
	cache, err := modcache.Open(dir, o)
	if err != nil {
		return nil, err
	}
	h := &host{cache: cache, prepared: make(chan struct{})}
	module := modcache.NewModule(wasm)
	fast, err := cache.NewRuntime(ctx, nil)
	closeFast := func() error { return nil }
	switch {
	case err == nil:
		closeFast = func() error { return fast.Close(ctx) }
		if stored, _ := fast.Stored(ctx, module); stored { // loading it is faster than interpreting
			defer close(h.prepared)
			t, err := newTier(ctx, machineCode, fast, wasm)
			if err != nil {
				return nil, errors.Join(err, cache.Close(ctx))
			}
			h.current.Store(t)
			return h, nil
		}
	case !errors.Is(err, modcache.ErrUnsupportedWazero): // else nothing can be compiled here, as Prepare says too
		return nil, errors.Join(err, cache.Close(ctx))
	}
	slow, err := newTier(ctx, interpreter, wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter()), wasm)
	if err != nil {
		return nil, errors.Join(err, closeFast(), cache.Close(ctx))
	}
	h.current.Store(slow)
	result := cache.Prepare(ctx, nil, module)
	go func() {
		defer close(h.prepared)
		if w := <-result; w.Err != nil {
			h.failed = errors.Join(w.Err, closeFast())
			return
		}
		t, err := newTier(ctx, machineCode, fast, wasm)
		if err != nil {
			h.failed = err
			return
		}
		h.current.Swap(t).retire()
	}()
	return h, nil
}

// answer runs the module in an instance of its own, and says which tier did.
func (h *host) answer(ctx context.Context) (output []byte, by string, err error) {
	t := h.current.Load()
	for !t.enter() { // it was replaced a moment ago
		t = h.current.Load()
	}
	defer t.leave()
	var out bytes.Buffer
	mod, err := t.r.InstantiateModule(ctx, t.compiled, wazero.NewModuleConfig().WithName("").WithStdout(&out))
	var exit *sys.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 0 {
		err = nil
	}
	if mod != nil {
		_ = mod.Close(ctx)
	}
	return out.Bytes(), t.name, err
}

// close ends the host, when no request is under way any more: a preparation ends with the Cache.
func (h *host) close(ctx context.Context) error {
	err := h.cache.Close(ctx)
	<-h.prepared
	h.current.Load().retire()
	return err
}

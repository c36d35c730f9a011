// Command customstore keeps machine code in a store of one's own: here, in whatever can
// get, put and delete values by name. The test proves with modcachetest that it is one.
//
//	go run ./examples/customstore
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/examples/guest"
)

func main() {
	flag.Parse()
	ctx := context.Background()
	wasm, err := guest.Load(ctx, flag.Arg(0))
	if err == nil {
		err = run(ctx, os.Stdout, new(inMemory), wasm)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "customstore:", err)
		os.Exit(1)
	}
}

// run compiles the module in two caches, as two processes would.
func run(ctx context.Context, out io.Writer, b bucket, wasm []byte) error {
	for _, name := range []string{"first", "second"} {
		m, err := compile(ctx, b, wasm)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s: %d compiles, %d hits, %d problems\n", name, m.Compiles, m.Hits, m.StoreErrors+m.Corrupt)
	}
	return nil
}

func compile(ctx context.Context, b bucket, wasm []byte) (modcache.CacheMetrics, error) {
	cache, err := modcache.New(&store{bucket: b}, nil)
	if err != nil {
		return modcache.CacheMetrics{}, err
	}
	defer cache.Close(ctx) // which leaves the store open, and needs it to be
	r, err := cache.NewRuntime(ctx, nil)
	if err != nil {
		return modcache.CacheMetrics{}, err
	}
	defer r.Close(ctx)
	_, err = r.CompileModule(ctx, wasm)
	return cache.Metrics(), err
}

// inMemory is the simplest bucket. It keeps and returns copies, as something behind a
// network does.
type inMemory struct {
	mu     sync.Mutex
	values map[string][]byte
}

func (b *inMemory) Get(ctx context.Context, name string) ([]byte, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v, ok := b.values[name]
	return bytes.Clone(v), ok, ctx.Err()
}

func (b *inMemory) Put(ctx context.Context, name string, value []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.values == nil {
		b.values = make(map[string][]byte)
	}
	b.values[name] = bytes.Clone(value)
	return ctx.Err()
}

func (b *inMemory) Delete(ctx context.Context, name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.values, name)
	return ctx.Err()
}

package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache"
)

// What a plugin may ask for.
const (
	maxRequest  = 1 << 20
	maxResponse = 1 << 20
	maxCounters = 100     // of a tenant
	maxName     = 100     // bytes of a counter's, which is kept
	maxHandles  = 1000    // of all plugins of a tenant
	maxSaid     = 4 << 10 // bytes of standard error in a request
)

// call is one request on its way through a plugin.
type call struct {
	tenant   *tenant
	request  []byte
	response []byte
}

type callKey struct{}

// counter is a host object. Guests hold handles of it, and outlive neither it nor each other.
type counter struct{ n atomic.Int64 }

// tenant owns counters, which its plugins share and other tenants can't reach.
type tenant struct {
	quota *modcache.SlotQuota

	mu       sync.Mutex
	counters map[string]*counter
	plugins  map[string]*plugin
}

var errTooMany = errors.New("too many counters")

func (t *tenant) counter(name string) (*counter, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.counters[name]
	if c == nil {
		if len(t.counters) == maxCounters {
			return nil, errTooMany
		}
		c = new(counter)
		t.counters[name] = c
	}
	return c, nil
}

// exportAPI makes the module that plugins import from.
func exportAPI(ctx context.Context, r wazero.Runtime, slots *modcache.SlotHost[*counter]) error {
	type table = *modcache.SlotTable[*counter]
	const i32, i64 = api.ValueTypeI32, api.ValueTypeI64

	input := func(ctx context.Context, mod api.Module, _ table, stack []uint64) {
		c := ctx.Value(callKey{}).(*call)
		n := min(len(c.request), int(uint32(stack[1])))
		if !mod.Memory().Write(uint32(stack[0]), c.request[:n]) {
			panic(errors.New("input: the buffer is not in the plugin's memory")) // a trap
		}
		stack[0] = uint64(len(c.request))
	}
	output := func(ctx context.Context, mod api.Module, _ table, stack []uint64) {
		c := ctx.Value(callKey{}).(*call)
		text, ok := mod.Memory().Read(uint32(stack[0]), uint32(stack[1]))
		if !ok || len(c.response)+len(text) > maxResponse {
			panic(errors.New("output: not in the plugin's memory, or too much"))
		}
		c.response = append(c.response, text...)
	}
	open := func(ctx context.Context, mod api.Module, t table, stack []uint64) {
		c := ctx.Value(callKey{}).(*call)
		name, ok := mod.Memory().Read(uint32(stack[0]), uint32(stack[1]))
		if !ok || len(name) > maxName {
			stack[0] = 0
			return
		}
		key := string(name)
		// The same handle each time, so that a plugin that forgets to drop it does no harm.
		h, _ := t.Intern(key, func() (*counter, error) { return c.tenant.counter(key) })
		stack[0] = uint64(h) // 0 if there are too many, too
	}
	add := func(_ context.Context, _ api.Module, t table, stack []uint64) {
		n := int64(-1)
		if c, ok := t.Get(t.Handle(stack[0])); ok {
			n = c.n.Add(int64(stack[1]))
		}
		stack[0] = uint64(n)
	}

	b := r.NewHostModuleBuilder("host")
	for _, f := range []struct {
		name            string
		f               modcache.SlotFunc[*counter]
		params, results []api.ValueType
	}{
		{"input", input, []api.ValueType{i32, i32}, []api.ValueType{i32}},
		{"output", output, []api.ValueType{i32, i32}, nil},
		{"open", open, []api.ValueType{i32, i32}, []api.ValueType{i64}},
		{"add", add, []api.ValueType{i64, i64}, []api.ValueType{i64}},
	} {
		b = b.NewFunctionBuilder().WithGoModuleFunction(slots.Func(f.f), f.params, f.results).Export(f.name)
	}
	_, err := slots.ExportFunctions(b, i64).Instantiate(ctx) // clone and drop
	return err
}

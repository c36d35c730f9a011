package modcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/internal/wasmbin"
	"github.com/modcache/modcache/internal/wazerohook"
)

// capturable says what of a module's state a snapshot can't hold, if there is any.
func capturable(m *Module, s *wasmbin.State) error {
	switch {
	case s.ImportsMemory:
		return errors.New("it can't be captured: it imports a memory")
	case s.ImportsTable:
		return errors.New("it can't be captured: it imports a table")
	case s.ImportsMutable:
		return errors.New("it can't be captured: it imports a mutable global")
	}
	for i, g := range s.Globals {
		if g.Mutable && g.Type == 0 {
			return fmt.Errorf("it can't be captured: global %d is mutable and holds a reference", s.ImportedGlobals+i)
		}
	}
	for _, i := range s.VariesWith { // which would begin with what Init leaves
		if i >= len(s.Globals) || s.Globals[i].Mutable {
			return fmt.Errorf("it can't be captured: what other globals or tables begin with depends on global %d, which is mutable", s.ImportedGlobals+i)
		}
	}
	f, err := wasmbin.ScanEffects(m.wasm)
	switch {
	case err != nil:
		return fmt.Errorf("it can't be captured: %w", err)
	case f.Tables != "":
		return fmt.Errorf("it can't be captured: it changes a table, by %s", f.Tables)
	case f.Drops != "":
		return fmt.Errorf("it can't be captured: it drops a segment, by %s", f.Drops)
	}
	return nil
}

// capture runs Init in an instance, and returns what it leaves.
func (t *Template) capture(ctx context.Context, m *Module, s *wasmbin.State, o *TemplateOptions) (snap *wasmbin.Snapshot, took time.Duration, err error) {
	start := time.Now()
	snap, err = t.runInit(ctx, m, s, o)
	took = time.Since(start)
	e := Event{Kind: EventSnapshotTaken, Key: t.key, Name: m.Name(), Duration: took, Err: err}
	if err == nil {
		e.Bytes = int64(len(snap.Memory))
		t.r.c.counters.snapshots.Add(1)
	}
	t.r.c.emit(e)
	return snap, took, err
}

func (t *Template) runInit(ctx context.Context, m *Module, s *wasmbin.State, o *TemplateOptions) (*wasmbin.Snapshot, error) {
	if err := capturable(m, s); err != nil {
		return nil, err
	}
	start := t.r.links.now()
	mod, err := o.first(ctx, t.base, o.Config)
	if mod != nil {
		defer mod.Close(context.WithoutCancel(ctx))
	}
	if err != nil {
		return nil, err
	}
	watched := &watchedModule{Module: mod}
	err = contain.Apart(func() error { return o.Init(ctx, watched) })
	switch {
	case err != nil:
		return nil, err
	case mod.IsClosed():
		return nil, errors.New("it can't be captured: Init has closed the instance, or it has exited: if it is a command, with _start, build it as a reactor, with _initialize")
	case watched.open.Load() != 0:
		return nil, errors.New("it can't be captured: a call of one of its functions is under way")
	}
	snap, err := readSnapshot(mod, s)
	if err == nil && t.r.links.imported(mod.Name(), start) {
		return nil, errors.New("it can't be captured: a module that imports its memory or a table of it was instantiated meanwhile, as for a thread")
	}
	return snap, err
}

// readSnapshot copies the state of an instance.
func readSnapshot(mod api.Module, s *wasmbin.State) (*wasmbin.Snapshot, error) {
	snap := &wasmbin.Snapshot{}
	if s.Memory.Defined {
		size := mod.Memory().Size()
		snap.MemorySize = uint64(size)
		if size == 0 && mod.Memory().WriteByte(math.MaxUint32, 0) {
			snap.MemorySize = 1 << 32 // which wazero's sizes have no room for
		}
		content, _ := mod.Memory().Read(0, uint32(min(snap.MemorySize, math.MaxUint32)))
		snap.Memory = bytes.Clone(wasmbin.TrimZeros(content))
		if len(snap.Memory) > math.MaxInt32 || snap.MemorySize > math.MaxUint32 {
			return nil, errors.New("it can't be captured: its memory is in use beyond 2 GiB")
		}
	}
	if len(s.Globals) == 0 {
		return snap, nil
	}
	all, ok := mod.(experimental.InternalModule)
	if !ok || all.NumGlobal() != s.ImportedGlobals+len(s.Globals) {
		return nil, errors.New("it can't be captured: this wazero doesn't show the globals of an instance")
	}
	for i, g := range s.Globals {
		if !g.Mutable {
			continue
		}
		low, high, both := wazerohook.GlobalValue(all.Global(s.ImportedGlobals + i))
		if g.Type == wasmbin.V128 && !both {
			return nil, errors.New("it can't be captured: this wazero doesn't show all of a mutable vector")
		}
		snap.Globals = append(snap.Globals, wasmbin.Value{Low: low, High: high})
	}
	return snap, nil
}

// watchedModule is the instance that Init gets. It counts the calls under way.
type watchedModule struct {
	api.Module
	open atomic.Int64
}

// ExportedFunction implements api.Module.
func (m *watchedModule) ExportedFunction(name string) api.Function {
	f := m.Module.ExportedFunction(name)
	if f == nil {
		return nil
	}
	return watchedFunction{f, &m.open}
}

type watchedFunction struct {
	api.Function
	open *atomic.Int64
}

// Call implements api.Function.
func (f watchedFunction) Call(ctx context.Context, params ...uint64) ([]uint64, error) {
	f.open.Add(1)
	defer f.open.Add(-1)
	return f.Function.Call(ctx, params...)
}

// CallWithStack implements api.Function.
func (f watchedFunction) CallWithStack(ctx context.Context, stack []uint64) error {
	f.open.Add(1)
	defer f.open.Add(-1)
	return f.Function.CallWithStack(ctx, stack)
}

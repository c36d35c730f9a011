package modcache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache/internal/mapped"
	"github.com/modcache/modcache/internal/wasmbin"
	"github.com/modcache/modcache/internal/wazerocache"
	"github.com/modcache/modcache/internal/wazerohook"
)

// Template makes instances of a module that all begin in the same state: as the module
// was instantiated, or as TemplateOptions.Init left it. Their memory is one image, of which an
// instance has pages of its own once it writes to them, and nothing is initialised
// again. So an instance takes microseconds where wazero takes milliseconds. They run
// the machine code of the module itself. No instance sees what another does.
//
// A slice that Memory().Read returned ends with its instance, where wazero
// keeps it alive: copy what outlives the instance. When an instance is closed, its memory is given
// back at once, and reads from then on as it began, or as zeros, also to a call that is still under way, and to
// another module that has imported a function of it. One that another module of the Runtime may have imported lasts until nothing
// refers to it; an experimental.ImportResolver can bring it to another runtime, for which it doesn't. wazero keeps an instance that is never closed for as long as its runtime.
//
// A snapshot has the memory and the globals of the instance that Init ran in. What the host
// did for Init isn't in it: files that were opened, clocks that were read, arguments and
// environment. A guest that drew random numbers has the same ones in each instance. Have it draw
// seeds and make secrets, ids and connections after the snapshot, in the function that serves the request.
//
// On Windows, on 32-bit platforms, where addresses are scarce, and beyond the number of memories that
// Options.OffHeapMemory tells, memories are copies of the image; so are those of modules that import a table, or have a
// start section that an Init hasn't run, and those of a template that could have no file for
// it, as in a sandbox without memfd_create, which [Cache.Status] reports.
// Each template that isn't closed holds an open file; its
// instances hold none. Templates beyond half of the files that the process may open (ulimit -n) have none either. Where wazero has no compiler, or can't share code between modules, or there is none to share, as in a module that
// only brings a memory, instances are made of [Template.Module]. The methods may be called from several goroutines at once.
type Template struct {
	r      *Runtime
	key    Key
	config wazero.ModuleConfig // of Instantiate, by default

	// Either an image, and a module without data that shares the code of base, or base as it is.
	base    wazero.CompiledModule
	bare    wazero.CompiledModule // nil if instances are made of base
	linkage wasmbin.Linkage       // of bare
	image   *mapped.Image
	tables  *tableImage // nil if wazero fills them

	module func() *Module

	mu     sync.Mutex
	closed bool // guarded by mu
	users  int  // calls of Instantiate and Module that are under way; guarded by mu
}

// TemplateOptions configure a [Template]. Nil and zero fields mean the defaults.
type TemplateOptions struct {
	// Config is for the instance that Init runs in, start functions included, and
	// the default of Instantiate. If nil, it is a configuration without a name.
	Config wazero.ModuleConfig

	// Init runs once, in an instance of the module; instances of the template begin as it leaves
	// that. If nil, they begin as the module is instantiated, and run its start functions.
	//
	// Init fails the template if it returns an error, panics, or closes the instance; so
	// do modules whose state can't be captured: those that import a memory, a table or a
	// mutable global, have mutable globals that aren't numbers or on which what others or tables begin with
	// depends, change tables or drop segments.
	// When it returns, no call must be under way, and no other module may have imported the
	// memory or a table of the instance meanwhile. Its name tells: none, as by default, can't be imported
	// by. An experimental.ImportResolver goes by no name, so that whatever memory or table is imported under one
	// meanwhile fails the template. It may make other templates, but one of the same
	// module and ID is an error, if it passes its context on. mod has the methods of api.Module only: it
	// isn't wazero's own, as which its packages experimental and experimental/table would want it.
	Init func(ctx context.Context, mod api.Module) error

	// ID names what Init does. With it, the snapshot is kept in the store, and who asks for a
	// template of the same module and ID again, in this process or the next, gets it
	// without Init. Callers at the same time wait for one Init, up to Options.LockWait each. Change ID when Init, Config, or what they read, changes. Other programs
	// that share the store, as those of a user share the default directory, share its snapshots: begin ID with the name of yours. Whoever can read the store
	// can read what the guest had in memory by then: Init had better handle no secrets.
	ID string

	first instantiator
}

// NewTemplate returns a template of a module, which is compiled if need be. It belongs to the
// caller, who closes it before or after its instances and the Runtime.
//
// A whole program: examples/perrequest.
func (r *Runtime) NewTemplate(ctx context.Context, m *Module, o *TemplateOptions) (*Template, error) {
	return r.newTemplate(ctx, m, o, r.InstantiateModule)
}

// instantiator makes the instance that Init runs in.
type instantiator func(context.Context, wazero.CompiledModule, wazero.ModuleConfig) (api.Module, error)

func (r *Runtime) newTemplate(ctx context.Context, m *Module, o *TemplateOptions, first instantiator) (*Template, error) {
	if m == nil {
		return nil, errNoModule
	}
	opts := TemplateOptions{}
	if o != nil {
		opts = *o
	}
	opts.first = first
	if opts.Init == nil && opts.ID != "" {
		return nil, errors.New("modcache: TemplateOptions.ID names what Init does, and there is no Init")
	}
	if opts.Config == nil {
		opts.Config = wazero.NewModuleConfig().WithName("")
	}
	t := &Template{r: r, key: r.Key(m), config: opts.Config, module: func() *Module { return m }}
	base, err := r.Compile(ctx, m)
	if err != nil {
		return nil, err
	}
	t.base = base
	start := time.Now()
	err = errPanicked // unless prepare returns
	defer func() {
		r.c.emit(Event{Kind: EventTemplateMade, Key: t.key, Name: m.Name(), Duration: time.Since(start), Err: err})
		if err != nil {
			t.free()
		}
	}()
	if err = t.prepare(ctx, m, &opts); err != nil {
		return nil, &Error{Op: "make template", Key: t.key, Err: err}
	}
	r.c.counters.templates.Add(1)
	return t, nil
}

// prepare finds out how instances are to begin, and how to make them.
func (t *Template) prepare(ctx context.Context, m *Module, o *TemplateOptions) error {
	state, err := wasmbin.ReadState(m.wasm)
	switch {
	case err != nil && o.Init != nil:
		return fmt.Errorf("its state can't be read: %w", err)
	case err != nil:
		return nil // wazero can read it, and base is what it is
	}
	var snap *wasmbin.Snapshot
	if o.Init != nil {
		if snap, err = t.snapshot(ctx, m, state, o); err != nil {
			return err
		}
		// What Config starts has run.
		t.config = t.config.WithStartFunctions()
		t.module = sync.OnceValue(func() *Module { return t.plain(m, state, snap) })
	}
	if err = t.share(ctx, state, snap); err == nil {
		return nil
	}
	if t.r.e != nil && !errors.Is(err, errNotShared) && t.r.failIfClosed() == nil {
		t.r.c.degrade("sharing of code with templates", err)
	}
	if snap == nil {
		return nil // base is what it is
	}
	plain := t.module()
	if plain == nil {
		return errors.New("its state is no valid module")
	}
	compiled, err := t.r.Compile(ctx, plain)
	if err != nil {
		return err
	}
	_ = t.base.Close(ctx)
	t.base = compiled
	return nil
}

// errNotShared means that a module's own peculiarities, or the runtime's, want instances
// of the module itself.
var errNotShared = errors.New("not shared")

// share makes what instances are made of that begin with an image and run the code of base.
func (t *Template) share(ctx context.Context, state *wasmbin.State, snap *wasmbin.Snapshot) error {
	r := t.r
	h, ok := t.base.(*compiledHandle)
	if !ok || !r.e.stubs {
		return errNotShared
	}
	if h.alone != nil {
		return errNotShared
	}
	code := wazerocache.CodeOf(h.CompiledModule)
	if code == nil {
		return errNotShared
	}
	content, size := []byte(nil), state.Memory.Min
	if snap != nil {
		content, size = snap.Memory, snap.MemorySize
	} else if initial, err := state.Initial(); err != nil {
		return errNotShared // wazero is to say what is wrong with it
	} else {
		content = initial
	}
	if _, known := wazerohook.Allocator(ctx); !known {
		return errors.New("this wazero has another way to pass a memory allocator")
	}
	bare, err := state.Bare(snap)
	if err != nil {
		return err
	}
	tag := r.c.tag("template", t.key)
	image, err := wasmbin.Stub(bare, tag[:])
	if errors.Is(err, wasmbin.ErrNoFunctions) {
		return errNotShared
	}
	if err != nil {
		return err
	}
	id := wazerohook.ModuleID(image, r.e.conf.CloseOnContextDone)
	cm, err := r.compileInner(ctx, image, code.As(id))
	if err != nil {
		return err
	}
	if state.Memory.Defined {
		if t.image, err = mapped.NewImage(content); err != nil {
			r.c.degrade("memory that instances of a template share", err)
		}
	}
	t.linkage, t.bare = state.Linkage, cm
	t.linkage.Memory.Min = size
	t.linkage.Starts = state.Starts && snap == nil
	if !state.ImportsTable && !state.TablesVary {
		t.tables = newTableImage(wazerocache.Inner(cm))
	}
	return nil
}

// enter reports whether the template may be used; leave ends that.
func (t *Template) enter() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.users++
	}
	return !t.closed
}

func (t *Template) leave() {
	t.mu.Lock()
	t.users--
	last := t.closed && t.users == 0
	t.mu.Unlock()
	if last {
		t.free()
	}
}

// Instantiate returns a new instance. A nil config means TemplateOptions.Config. After an
// Init, start functions of that don't run again, and those of another config do. What
// context and config mean to wazero's InstantiateModule they mean here; a memory allocator in the
// context gets the image copied into what it returns. Host functions that start functions call get a context that is derived from it.
func (t *Template) Instantiate(ctx context.Context, config wazero.ModuleConfig) (api.Module, error) {
	return t.instantiate(ctx, config, func(cm wazero.CompiledModule) wazero.CompiledModule { return cm })
}

// instantiate has mark look at what the instance is made of, and replace it by its like.
func (t *Template) instantiate(ctx context.Context, config wazero.ModuleConfig, mark func(wazero.CompiledModule) wazero.CompiledModule) (api.Module, error) {
	if !t.enter() {
		return nil, &Error{Op: "instantiate", Key: t.key, Err: fmt.Errorf("the Template is %w", ErrClosed)}
	}
	defer t.leave()
	if config == nil {
		config = t.config
	}
	if t.bare == nil {
		return t.r.InstantiateModule(ctx, mark(t.base), config)
	}
	h := t.base.(*compiledHandle)
	if err := t.r.failIfClosed(); err != nil {
		return nil, err
	}
	if err := h.m.Hold(); err != nil {
		return nil, t.r.closedError(t.key, err)
	}
	unseen := wazerohook.Unseen(wazerocache.Inner(t.bare), config)
	inner, finish := t.tables.pick(wazerocache.Inner(t.bare), unseen)
	cm := mark(inner)
	ctx, memory := t.r.imageMemory(ctx, t.linkage, t.image)
	if memory.mapped() && !unseen {
		cm = memory.endsWith(cm, cm != inner)
	}
	mod, err := t.r.instantiate(ctx, cm, t.linkage, config, memory, h.m.Release)
	if mod != nil && finish != nil && !finish(mod) {
		_ = mod.Close(ctx)
		return t.instantiate(ctx, config, mark)
	}
	return mod, err
}

// Module returns a module whose instances begin as those of the template, in any runtime: the one
// that the template was made of, or after an Init, one whose globals and data are the
// snapshot. It is nil if the template was closed.
func (t *Template) Module() *Module {
	if !t.enter() {
		return nil
	}
	defer t.leave()
	return t.module()
}

// plain writes the snapshot as a module.
func (t *Template) plain(m *Module, state *wasmbin.State, snap *wasmbin.Snapshot) *Module {
	wasm, err := state.Module(snap)
	if err != nil {
		return nil
	}
	return NewModule(wasm).Named(m.name)
}

// Close ends the template. Its instances live on.
func (t *Template) Close(context.Context) error {
	t.mu.Lock()
	last := !t.closed && t.users == 0
	t.closed = true
	t.mu.Unlock()
	if last {
		t.free()
	}
	return nil
}

func (t *Template) free() {
	if t.image != nil {
		t.image.Close()
	}
	if t.bare != nil {
		_ = t.bare.Close(context.Background())
	}
	_ = t.base.Close(context.Background())
}

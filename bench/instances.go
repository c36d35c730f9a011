package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"reflect"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/bench/internal/report"
	"github.com/modcache/modcache/bench/modules"
)

var instances = part{
	name:  "instances",
	title: "Instances from a template",
	about: "Making and closing an instance of a module that is compiled. Guests that export _initialize are initialised,\n" +
		"which a template has done once; programs for WASI aren't run. \"idle\" is what each further instance that stays\n" +
		"open adds to the anonymous memory of the process. Before anything is measured, an instance from the template is\n" +
		"compared with one of wazero: memory, globals, exports, and what a call returns, prints and leaves in memory.",
	run: runInstances,
}

// instancing is a way to instances that are ready to be called.
type instancing struct {
	name string
	role report.Role
	open func(ctx context.Context, wasm []byte) (instantiate func(ctx context.Context) (instance, error), err error)
}

type instance interface{ Close(context.Context) error }

const wazeroItself = "wazero"

var instancings = []instancing{
	{wazeroItself, report.Peer, func(ctx context.Context, wasm []byte) (func(context.Context) (instance, error), error) {
		plain, err := openPlain(ctx, wasm)
		return func(ctx context.Context) (instance, error) { return plain(ctx, instanceConfig()) }, err
	}},
	{"wazy", report.Peer, openWazy},
	{templates, report.Ours, func(ctx context.Context, wasm []byte) (func(context.Context) (instance, error), error) {
		template, err := openTemplate(ctx, wasm)
		return func(ctx context.Context) (instance, error) { return template(ctx, instanceConfig()) }, err
	}},
}

// initializer is the export with which a guest that isn't a program sets itself up.
const initializer = "_initialize"

// instanceConfig starts nothing, and has random numbers that cost nothing to seed.
func instanceConfig() wazero.ModuleConfig {
	return wazero.NewModuleConfig().WithName("").WithStartFunctions().WithRandSource(rand.Reader)
}

// instantiator makes an instance and initialises it.
type instantiator func(context.Context, wazero.ModuleConfig) (api.Module, error)

func openPlain(ctx context.Context, wasm []byte) (instantiator, error) {
	r := wazero.NewRuntimeWithConfig(ctx, config())
	compiled, err := r.CompileModule(ctx, wasm)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, config wazero.ModuleConfig) (api.Module, error) {
		mod, err := r.InstantiateModule(ctx, compiled, config)
		if err == nil {
			err = initialize(ctx, mod)
		}
		return mod, err
	}, hosts(ctx, r, compiled)
}

func openTemplate(ctx context.Context, wasm []byte) (instantiator, error) {
	c, err := modcache.New(modcache.NewMemory(nil), nil)
	if err != nil {
		return nil, err
	}
	r, err := c.NewRuntime(ctx, config())
	if err != nil {
		return nil, err
	}
	compiled, err := r.CompileModule(ctx, wasm)
	if err != nil {
		return nil, err
	}
	if err := hosts(ctx, r, compiled); err != nil {
		return nil, err
	}
	t, err := r.NewTemplate(ctx, modcache.NewModule(wasm), templateOptions(compiled, instanceConfig()))
	if err != nil {
		return nil, err
	}
	return t.Instantiate, nil
}

// templateOptions have an Init for modules that initialise themselves.
func templateOptions(compiled wazero.CompiledModule, config wazero.ModuleConfig) *modcache.TemplateOptions {
	o := &modcache.TemplateOptions{Config: config}
	if compiled.ExportedFunctions()[initializer] != nil {
		o.Init, o.ID = initialize, initializer
	}
	return o
}

func initialize(ctx context.Context, mod api.Module) error {
	f := mod.ExportedFunction(initializer)
	if f == nil {
		return nil
	}
	_, err := f.Call(ctx)
	return err
}

// differ tells in what an instance from a template isn't what wazero itself makes of the module.
// Hosts have wazero's clocks and random numbers, which are the same each time.
func differ(ctx context.Context, wasm []byte) error {
	plain, err := openPlain(ctx, wasm)
	if err != nil {
		return err
	}
	template, err := openTemplate(ctx, wasm)
	if err != nil {
		return err
	}
	var mods [2]api.Module
	var printed [2]bytes.Buffer
	for i, instantiate := range []instantiator{plain, template} {
		config := wazero.NewModuleConfig().WithName("").WithStartFunctions().WithArgs("guest", "-h").WithStdout(&printed[i]).WithStderr(&printed[i])
		mod, err := instantiate(ctx, config)
		if err != nil {
			return err
		}
		defer mod.Close(ctx)
		mods[i] = mod
	}
	a, b := mods[0], mods[1]
	initialized := a.ExportedFunction(initializer) != nil
	names := func(m api.Module) string {
		var names []string
		for name, f := range m.ExportedFunctionDefinitions() {
			names = append(names, fmt.Sprint(name, f.ParamTypes(), f.ResultTypes(), f.ParamNames(), f.DebugName()))
		}
		for name, m := range m.ExportedMemoryDefinitions() {
			least := m.Min()
			if most, ok := m.Max(); initialized {
				names = append(names, fmt.Sprint(name, most, ok)) // a snapshot begins with the memory that Init needed
			} else {
				names = append(names, fmt.Sprint(name, least, most, ok))
			}
		}
		slices.Sort(names)
		return strings.Join(names, "\n")
	}
	if names(a) != names(b) {
		return fmt.Errorf("the template's instance has other exports:\n%s\nand not\n%s", names(b), names(a))
	}
	// Random numbers that Init drew are the template's own, so that this is for modules without.
	same := func(when string) error {
		if m := a.Memory(); !reflect.ValueOf(m).IsNil() {
			x, _ := m.Read(0, m.Size())
			y, _ := b.Memory().Read(0, b.Memory().Size())
			if !bytes.Equal(x, y) {
				return fmt.Errorf("the template's instance has another memory %s", when)
			}
		}
		x, y := a.(experimental.InternalModule), b.(experimental.InternalModule)
		for i := range x.NumGlobal() {
			if x.Global(i).Get() != y.Global(i).Get() {
				return fmt.Errorf("the template's instance has another global %d %s", i, when)
			}
		}
		return nil
	}
	if !initialized {
		if err := same("at its start"); err != nil {
			return err
		}
	}
	name := firstExport(a.ExportedFunctionDefinitions())
	if name == "" {
		return nil
	}
	params := make([]uint64, len(a.ExportedFunctionDefinitions()[name].ParamTypes()))
	x, errX := a.ExportedFunction(name).Call(ctx, params...)
	y, errY := b.ExportedFunction(name).Call(ctx, params...)
	switch {
	case fmt.Sprint(errX) != fmt.Sprint(errY):
		return fmt.Errorf("%s fails otherwise in the template's instance: %v, and not %v", name, errY, errX)
	case !slices.Equal(x, y):
		return fmt.Errorf("%s returns %v in the template's instance, and not %v", name, y, x)
	case !bytes.Equal(printed[0].Bytes(), printed[1].Bytes()):
		return fmt.Errorf("%s prints something else in the template's instance", name)
	case a.IsClosed() != b.IsClosed():
		return fmt.Errorf("%s closes only one of the instances", name)
	case a.IsClosed() || initialized: // a closed memory is given back
		return nil
	}
	return same("after " + name)
}

// instanceTimes has microseconds of each side, round by round.
type instanceTimes map[string][]float64

func timeInstances(ctx context.Context, s start) (instanceTimes, error) {
	wasm, err := os.ReadFile(s.File)
	if err != nil {
		return nil, err
	}
	if err := differ(ctx, wasm); err != nil {
		return nil, err
	}
	sides := make([]func(context.Context) (instance, error), len(instancings))
	for i, side := range instancings {
		if sides[i], err = side.open(ctx, wasm); err != nil {
			return nil, fmt.Errorf("%s: %w", side.name, err)
		}
	}
	const each = 5 // of a side at a time
	took := instanceTimes{}
	for round := range s.Rounds + 1 {
		for _, i := range turn(round, len(sides)) {
			begin := time.Now()
			for range each {
				mod, err := sides[i](ctx)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", instancings[i].name, err)
				}
				if err := mod.Close(ctx); err != nil {
					return nil, err
				}
			}
			if round > 0 { // the first ones warm up
				took[instancings[i].name] = append(took[instancings[i].name], time.Since(begin).Seconds()*1e6/each)
			}
		}
	}
	return took, nil
}

// idleInstances returns the KiB that each further instance adds to the process.
func idleInstances(ctx context.Context, s start) (float64, error) {
	wasm, err := os.ReadFile(s.File)
	if err != nil {
		return 0, err
	}
	instantiate, err := instancings[s.Way].open(ctx, wasm)
	if err != nil {
		return 0, err
	}
	const n = 20
	var open []instance
	before := 0.0
	for range n + 1 {
		mod, err := instantiate(ctx)
		if err != nil {
			return 0, err
		}
		if open = append(open, mod); len(open) == 1 {
			before = anonymousKiB()
		}
	}
	added := anonymousKiB() - before
	for _, mod := range open {
		if err := mod.Close(ctx); err != nil {
			return 0, err
		}
	}
	return max(added/n, 0), nil
}

// anonymousKiB is the resident memory that isn't a file's; 0 where the system doesn't tell.
func anonymousKiB() float64 {
	debug.FreeOSMemory()
	kib, _ := strconv.ParseFloat(strings.TrimSuffix(field("/proc/self/status", "RssAnon"), " kB"), 64)
	return kib
}

func runInstances(ctx context.Context, b *bench) ([]report.Case, error) {
	found, err := b.modules()
	if err != nil {
		return nil, err
	}
	if !b.quick && !b.given {
		for _, pkg := range []string{"github.com/evanw/esbuild/cmd/esbuild", reactor} {
			m, err := modules.Build(ctx, b.tmp, pkg)
			if err != nil {
				return nil, err
			}
			found = append(found, m)
		}
	}
	var cases []report.Case
	for _, m := range found {
		if m.Name == "libcre2" {
			continue // it imports a shared memory
		}
		c := report.Case{Name: m.String(), Unit: "µs", Reference: wazeroItself, Chart: true, Headline: true}
		took, _, err := child[instanceTimes](ctx, "instances", start{File: m.File, Rounds: b.pick(2, 21)})
		if err != nil {
			return cases, fmt.Errorf("%v: %w", m, err)
		}
		for i, side := range instancings {
			c.Rows = append(c.Rows, report.Row{Side: side.name, Role: side.role, Samples: took[side.name]})
			kib, _, err := child[float64](ctx, "idle", start{Way: i, File: m.File})
			if err != nil {
				return cases, fmt.Errorf("%v: %w", m, err)
			}
			c.Rows[i].Figures = []report.Figure{{Name: "idle, KiB", Value: kib}}
		}
		cases = append(cases, c)
	}
	return cases, nil
}

// reactor is a guest that sets itself up in _initialize, for tens of milliseconds.
const reactor = "github.com/modcache/modcache/examples/perrequest/guest"

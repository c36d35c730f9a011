package main

import (
	"errors"
	"flag"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wazerohook"
)

// engineFlags say whose keys are meant. Machine code is found only by programs with
// the wazero that it was compiled for.
type engineFlags struct {
	id      string
	program string
}

func (e *engineFlags) register(fs *flag.FlagSet) {
	fs.StringVar(&e.id, "engine-id", "", "what programs set as Options.EngineID, if they do, such as `release-7`")
	fs.StringVar(&e.program, "program", "", "the executable that uses the cache, such as `./server`, or the directory of its package: its wazero is meant, not the one in this tool")
}

// engine is the identity that keys are made with.
type engine struct {
	id      string
	own     string // of the wazero in this tool; "" if it can't be told
	program *wazerohook.Program
}

func (e *engineFlags) resolve() (engine, error) {
	own, err := modcache.EngineID()
	if err != nil && e.id == "" && e.program == "" {
		return engine{}, fmt.Errorf("%w; give -engine-id or -program, because this tool can't tell which wazero is in it", err)
	}
	en := engine{id: own, own: own}
	if e.program != "" {
		p, err := readProgram(e.program)
		if errors.Is(err, wazerohook.ErrNoWazero) {
			return engine{}, fmt.Errorf("%w: name the program that runs the modules; test binaries don't list what they contain", err)
		}
		if err != nil {
			return engine{}, err
		}
		en.id, en.program = p.Identity, &p
	}
	if e.id != "" {
		en.id = e.id
	}
	return en, nil
}

// check reports why this tool's wazero can't speak for the engine: what it compiles
// would not be found, or should not, and its keys may be others.
func (en engine) check() error {
	const fix = "build this tool with the program's wazero: in its module, run\n" +
		"  go get -tool github.com/modcache/modcache/cmd/modcache\n" +
		"  go tool modcache warm ..."
	switch {
	case en.program != nil && en.program.GOARCH != "" && platform() != en.program.GOOS+"/"+en.program.GOARCH:
		return fmt.Errorf("the program is built for %s/%s and this tool for %s: it would not find what is compiled here",
			en.program.GOOS, en.program.GOARCH, platform())
	case en.program != nil && isExecutable(en.id) && en.id == en.program.Identity:
		return errors.New("nothing that another program compiles is found by this one, whose wazero has no module checksum (it is vendored, or replaced by a directory): " +
			"build it with checksums, or set Options.EngineID and give -engine-id")
	case en.program != nil && en.program.Identity != en.own && !isExecutable(en.program.Identity):
		return fmt.Errorf("what is compiled here is not for the program: its wazero is\n  %s\nand the one in this tool is\n  %s\n%s",
			en.program.Identity, en.own, fix)
	case en.id != en.own && isDerived(en.id):
		return fmt.Errorf("-engine-id names a build of wazero that isn't in this tool:\n  %s\nwhich has\n  %s\nIts machine code would crash that program; %s",
			en.id, en.own, fix)
	}
	if w, err := wazerohook.Probe(); err == nil && en.program != nil && w.Version != en.program.Format {
		return fmt.Errorf("the program would refuse what is compiled here: its wazero marks machine code with %q, and the one in this tool with %q; %s",
			en.program.Format, w.Version, fix)
	}
	return nil
}

// isDerived reports whether an identity says by itself which code it stands for, rather than
// being somebody's choice.
func isDerived(id string) bool {
	return isExecutable(id) || strings.Contains(id, "@") && strings.Contains(id, " h1:")
}

// isExecutable reports whether an identity is that of the program, for want of anything
// better.
func isExecutable(id string) bool { return strings.HasPrefix(id, "executable ") }

// configFlags are the settings of a wazero.RuntimeConfig, all of which are a part of
// keys.
type configFlags struct {
	features        featureSet
	memoryLimit     uint
	capacityFromMax bool
	closeOnDone     bool
	noDebugInfo     bool
	customSections  bool
	compiler        bool
}

const maxPages = 1 << 16

// defaultConfig is that of programs that set none of it.
var defaultConfig = configFlags{features: featureSet(api.CoreFeaturesV2), memoryLimit: maxPages}

func (c *configFlags) register(fs *flag.FlagSet) {
	c.features = defaultConfig.features
	fs.Var(&c.features, "features", "core features as in WithCoreFeatures: v1 or v2, then what to add, or drop with a minus,\nsuch as `v2,threads,-simd`; of\n"+featureNames())
	fs.UintVar(&c.memoryLimit, "memory-limit-pages", defaultConfig.memoryLimit, "as in WithMemoryLimitPages, such as `1024`")
	fs.BoolVar(&c.capacityFromMax, "memory-capacity-from-max", false, "as in WithMemoryCapacityFromMax")
	fs.BoolVar(&c.closeOnDone, "close-on-context-done", false, "as in WithCloseOnContextDone")
	fs.BoolVar(&c.noDebugInfo, "no-debug-info", false, "as in WithDebugInfoEnabled(false)")
	fs.BoolVar(&c.customSections, "custom-sections", false, "as in WithCustomSections(true)")
	fs.BoolVar(&c.compiler, "compiler", false, "the program uses NewRuntimeConfigCompiler, not NewRuntimeConfig")
}

func (c *configFlags) config() (wazero.RuntimeConfig, error) {
	if c.memoryLimit > maxPages {
		return nil, usagef("-memory-limit-pages is %d, at most %d are possible", c.memoryLimit, maxPages)
	}
	rc := wazero.NewRuntimeConfig()
	if c.compiler {
		rc = wazero.NewRuntimeConfigCompiler()
	}
	return rc.WithCoreFeatures(api.CoreFeatures(c.features)).
		WithMemoryLimitPages(uint32(c.memoryLimit)).
		WithMemoryCapacityFromMax(c.capacityFromMax).
		WithCloseOnContextDone(c.closeOnDone).
		WithDebugInfoEnabled(!c.noDebugInfo).
		WithCustomSections(c.customSections), nil
}

// featureSet is a flag of core features.
type featureSet api.CoreFeatures

type feature struct {
	name string
	bit  api.CoreFeatures
}

var features = []feature{
	{"v2", api.CoreFeaturesV2},
	{"v1", api.CoreFeaturesV1},
	{"mutable-global", api.CoreFeatureMutableGlobal},
	{"sign-extension-ops", api.CoreFeatureSignExtensionOps},
	{"multi-value", api.CoreFeatureMultiValue},
	{"nontrapping-float-to-int-conversion", api.CoreFeatureNonTrappingFloatToIntConversion},
	{"reference-types", api.CoreFeatureReferenceTypes},
	{"bulk-memory-operations", api.CoreFeatureBulkMemoryOperations},
	{"simd", api.CoreFeatureSIMD},
	{"threads", experimental.CoreFeaturesThreads},
	{"tail-call", experimental.CoreFeaturesTailCall},
	// wazero names these since v1.12.
	{"extended-const", api.CoreFeatureSIMD << 3},
	{"exception-handling", api.CoreFeatureSIMD << 4},
	{"typed-function-references", api.CoreFeatureSIMD << 5},
}

// featureNames lists all features but the versions, five in a line.
func featureNames() string {
	var lines []string
	for five := range slices.Chunk(features[2:], 5) {
		var names []string
		for _, f := range five {
			names = append(names, f.name)
		}
		lines = append(lines, strings.Join(names, ", "))
	}
	return strings.Join(lines, ",\n")
}

func (s *featureSet) Set(text string) error {
	var set api.CoreFeatures
	for word := range strings.SplitSeq(text, ",") {
		name, drop := strings.CutPrefix(strings.TrimSpace(word), "-")
		switch i := slices.IndexFunc(features, func(f feature) bool { return f.name == name }); {
		case i < 0:
			return fmt.Errorf("there is no feature %q; begin with v1 or v2 and add some of:\n%s", name, featureNames())
		case features[i].bit > experimental.CoreFeaturesTailCall && features[i].bit.String() == "":
			return fmt.Errorf("the wazero in this program is too old to know the feature %q", name)
		default:
			set = set.SetEnabled(features[i].bit, !drop)
		}
	}
	*s = featureSet(set)
	return nil
}

func (s *featureSet) String() string {
	if s == nil {
		return ""
	}
	rest, names := api.CoreFeatures(*s), []string(nil)
	for _, f := range features {
		if rest&f.bit == f.bit {
			names, rest = append(names, f.name), rest&^f.bit
		}
	}
	return strings.Join(names, ",")
}

func platform() string { return runtime.GOOS + "/" + runtime.GOARCH }

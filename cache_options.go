package modcache

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"slices"
	"time"

	"github.com/modcache/modcache/internal/option"
)

// Options configure a [Cache]. Nil and zero fields mean the defaults; where a
// number can be switched off, a negative one does it.
type Options struct {
	// Disk configures the store that [Open] opens; [New] ignores it.
	Disk DiskOptions

	// Behind are further stores of [Open], fastest first: layers behind the directory, or what stands in for it, in a
	// [Layered] with the default options. They stay the caller's to close after the Cache. With ReadOnly,
	// nothing is written to them. [New] ignores them.
	Behind []Layer

	// RequireHit makes every compile of a module that isn't in the cache fail with
	// [ErrMiss], before any compiling starts: for images that were warmed when they
	// were built. Where wazero has no compiler, or modcache doesn't know this build
	// of it, nothing can be a hit, and [Open] and [New] fail with
	// [ErrUnsupportedWazero]; so does a [Runtime] that is to interpret. What a runtime of wazero's own
	// does that interprets, the drop-in can't see. The error says what is in the directory instead.
	// A store is waited for up to 30 seconds, and so long for each of its layers, unless the [Layer] or the store has a limit of its own: one
	// of package remote gives up only servers that are silent.
	// The snapshot of a [Template] that isn't there is no miss: Init runs.
	// A whole program: examples/readonly.
	RequireHit bool

	// ReadOnly never writes to the store and never creates a directory. Modules
	// that aren't there are compiled and not kept, but for those that memory keeps in place of
	// a directory that can't be had.
	ReadOnly bool

	// MustStore has [Open] fail where it would go on without the directory: for build steps
	// that fill it, and where a start without a cache is worse than no start.
	// RequireHit needs a directory too, or a store in Behind, but is content with one that can only be read.
	MustStore bool

	// IgnoreEnv has [Open] ignore MODCACHE, MODCACHE_DIR and MODCACHE_MAX_BYTES.
	IgnoreEnv bool

	// TrustDirectory lets a cache plugged in by [Cache.Attach] take over entries of
	// the directory that the wazero cache was created with. wazero doesn't
	// authenticate them, and neither can we: they get structural checks only. wazero
	// also keeps them apart by version only, which is "dev" in tests, workspaces and
	// replaced modules: don't trust a directory that several of those write to.
	TrustDirectory bool

	// FullDecode has a [Runtime] decode and validate modules in full on every
	// start, as wazero does, instead of loading them through stubs. It is for
	// memory allocators whose memory isn't zero at first: a stub may write zeros
	// between data segments, where wazero would leave what is there.
	FullDecode bool

	// ExactKeys gives every module machine code of its own, unless all of its bytes are those of another. Without it, a
	// [Runtime] lets modules that differ only in names, notes and the way that
	// integers are written share one artifact; see [Canonicalize]. Where others fill the store without it,
	// what they share is used.
	ExactKeys bool

	// OffHeapMemory has a [Runtime] keep the memories of instances outside of Go's heap.
	// There a memory that grows starts no garbage collection, and takes only what the guest
	// touches. The price: a slice that Memory().Read returned ends with its instance, where
	// wazero keeps it alive. Copy what outlives the instance. When an instance is closed, its memory is
	// given back at once, and reads as zeros from then on, also to a call that is still under
	// way, to another module that has imported a function of it, and to one of another runtime that has imported
	// the memory through an experimental.ImportResolver. Memories that other modules of the Runtime
	// import end with the last of these. Host functions that start functions call get a context that is derived from the caller's. wazero keeps an instance that is never closed for as long as its runtime.
	//
	// An experimental.MemoryAllocator in the context takes precedence. Where there are
	// no addresses for a memory, it is on the heap, which
	// [CacheMetrics] counts. So are those that would take more than half of the addresses that the process may have (RLIMIT_AS)
	// beside those that it has otherwise, or of the mappings that Linux allows it (vm.max_map_count): by default, beyond 10,921 memories at a time. On 32-bit platforms and on Windows all are,
	// and on Linux where the process has a limit of writable memory (RLIMIT_DATA); and those of modules that import a table or have a start section.
	OffHeapMemory bool

	// Workers is how many goroutines compile the functions of one module. The
	// default is 1, as in wazero: a bug in its compiler that panics is then a panic
	// in the goroutine that asked. With more, compiling is faster by nearly that
	// factor, but such a panic ends the process, and a compile that is cancelled, which is possible then, leaves a little memory
	// mapped for good, as in wazero. More than 256 are 256. A caller's
	// experimental.WithCompilationWorkers takes precedence.
	Workers int

	// MaxCompiles is how many modules are compiled at once by all runtimes of the
	// Cache; more wait. The default is GOMAXPROCS divided by Workers, at least 1;
	// negative means no limit. A compile whose callers have left goes on, and counts until it ends: wazero can't be
	// stopped within a function. So where guests are hostile, a few modules that take minutes to compile keep all new
	// ones waiting, but none that is stored; refuse them by their size, have them compiled in a process of their own, or set no
	// limit. Compiles under a listener factory are not counted and never wait: the
	// factory may compile modules itself.
	MaxCompiles int

	// Retain bounds the memory, in bytes, that modules take which stay loaded while nobody
	// uses them, so that the next caller finds them there: their machine code in whole pages,
	// and an estimate of what wazero and we keep on the heap to describe them, or may once a call fails. That counts for each Runtime which has used a module and
	// doesn't use it now, also while others do, but for the one that loaded it: entering it there again takes little. The default is
	// 256 MiB, or a quarter of GOMEMLIMIT if that is less; negative keeps nothing. Up to 64 MiB more of machine code, or an eighth of the live heap if that is more, may wait for the
	// garbage collector, and as much again while it runs. A module of up to 4 KiB that is forgotten, not closed, isn't kept.
	Retain int64

	// SmallModules is how many small modules, of up to 16 KiB of code, that are not in the
	// store a Cache compiles, stores and retains when it meets them first. A program that has
	// more makes them up as it goes, for one use each. From then on, small modules that the
	// Cache hasn't met among the last few thousand are compiled for the one use, as wazero
	// does without a cache: neither stored nor retained, and by a [Runtime] not looked up. Those that
	// come again are cached like all others. The default is 128; negative means no limit.
	// [Cache.Warm] and RequireHit don't take part in this.
	SmallModules int

	// LockWait is how long a compile waits for another process that compiles the
	// same module, or a template for another's Init, before it goes ahead by itself. For a minute after one that waited in vain, others
	// wait for a tenth of a second only. The default is one minute; negative never waits and takes no locks.
	LockWait time.Duration

	// EngineID replaces what modcache finds out about the wazero linked into the
	// program, in at most 255 bytes. Set it if your build knows better, and change
	// it with every change of wazero's code: a stale one runs wrong machine code.
	EngineID string

	// Logger, if set, gets problems as warnings, waiting for another process's compile and compiles of a second or
	// more as information, and everything else for debugging. The message is the kind of the [Event], the attributes are its other fields. A store that
	// goes on failing is a warning once, and again only after it has worked; a server that is left alone is one once an hour.
	Logger *slog.Logger

	// OnEvent, if set, is called for whatever happens. See [Event] for what it may do.
	OnEvent func(Event)

	// Trace, if set, is called when a [Runtime] begins a step of what it does to come by a module that
	// isn't in memory, and the function that it returns when the step has ended, with or without success.
	// It is for spans: module modcacheotel has one for OpenTelemetry. Its context is the caller's, or in a step
	// within another one, that which Trace returned for the outer one. Of the context that it returns, only
	// the values are used: by the steps within, and by the store in a lookup. Either may be nil.
	//
	// Callers who want the same module at once share the steps of the first of them. The others have a
	// StepWait. Steps are done for a caller, but not by its goroutine, and may go on when it has left. What the drop-in
	// looks up is on behalf of a context without values. Compiles under a listener factory are
	// not told of. Otherwise it is called as OnEvent is; see [Event].
	Trace func(ctx context.Context, s Step) (context.Context, func(StepEnd))
}

const (
	defaultRetain   = 256 << 20
	defaultLockWait = time.Minute

	defaultSmallModules = 128

	maxWorkers = 256 // each has the state of a compiler, and wazero panics where there are very many
)

// Format implements [fmt.Formatter], so that any verb hides the Key of the Disk, with the exception that
// [DiskOptions.Format] has.
func (o Options) Format(f fmt.State, verb rune) {
	type plain Options // without this method
	fmt.Fprintf(f, fmt.FormatString(f, verb), plain(o))
}

// validate returns a copy with the defaults filled in. Those that are off are 0 (Retain), MaxInt (SmallModules) or -1.
func (o *Options) validate() (Options, error) {
	var v Options
	if o != nil {
		v = *o
	}
	if len(v.EngineID) > maxEngineID {
		return v, fmt.Errorf("modcache: Options.EngineID has %d bytes, at most %d fit", len(v.EngineID), maxEngineID)
	}
	v.Behind = slices.DeleteFunc(slices.Clone(v.Behind), func(l Layer) bool { return l.Store == nil })
	v.Workers = min(max(1, v.Workers), maxWorkers)
	v.MaxCompiles = option.Number(v.MaxCompiles, max(1, runtime.GOMAXPROCS(0)/v.Workers), -1)
	v.Retain = option.Number(v.Retain, option.OfMemory(defaultRetain, 4), 0)
	v.SmallModules = option.Number(v.SmallModules, defaultSmallModules, math.MaxInt)
	v.LockWait = option.Number(v.LockWait, defaultLockWait, -1)
	return v, nil
}

package modcache

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tetratelabs/wazero/experimental"

	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/internal/wasmbin"
	"github.com/modcache/modcache/internal/wazerohook"
)

// source is a module on its way into an engine: its bytes, and what can be known of
// them, each found out once and when it is asked for.
//
// The bytes belong to the caller whose flight works on them. He may leave before it ends,
// and do with them as he likes.
type source struct {
	e   *engine
	sum Fingerprint
	key Key

	given  string // name
	wanted bool   // in the store, or known to be there
	lent   bool   // the bytes may change before the call ends, by mistake or by a guest whose memory they are in

	mu    sync.RWMutex
	wasm  []byte // guarded by mu
	owned bool   // wasm is a copy of ours; guarded by mu

	naming    sync.Once
	called    string // by its name section; set by naming
	verify    sync.Once
	modified  error // set by verify
	scan      sync.Once
	outlined  *wasmbin.Outline // set by scan; nil if the module is malformed
	draft     sync.Once
	drafted   *wasmbin.Draft // set by draft; nil if there can't be a stub
	draftSum  Fingerprint    // of what was drafted, if the bytes are lent; set by draft
	complete  sync.Once
	completed []byte // set by complete
	encode    sync.Once
	encoded   *canonical // set by encode

	compiled atomic.Bool     // it was, for this source
	added    <-chan struct{} // closed when its code was offered to the store; set by compiling
	found    atomic.Bool     // its code was loaded from the store, for this source
}

func (e *engine) source(m *Module) *source {
	return &source{e: e, sum: m.sum, key: e.key(m.sum), given: m.name, wasm: m.wasm}
}

// draftFrom is the size of a module from which it pays to start another goroutine, which hashes it once more.
const draftFrom = 256 << 10

// prepare takes the fingerprint of a module. If it looks like one that has to be loaded, its
// stub is drafted before, or on another core meanwhile: of a herd, by a single member. done is called
// once the module is loaded, or isn't wanted any more.
func (e *engine) prepare(wasm []byte) (s *source, done func()) {
	s, done = &source{e: e, wasm: wasm, lent: true}, func() {}
	var drafting sync.WaitGroup
	size := len(wasm)
	if e.stubs && e.loaded.Claim(size) {
		done = func() {
			drafting.Wait()
			e.loaded.Unclaim(size)
		}
		if size >= draftFrom && runtime.GOMAXPROCS(0) > 1 {
			drafting.Go(func() { s.stubDraft() })
		} else if s.stubDraft() != nil {
			s.sum = s.draftSum
		}
	}
	if s.sum == (Fingerprint{}) {
		s.sum = Sum(wasm)
	}
	s.key = e.key(s.sum)
	return s, done
}

// sumOfDraft is [Sum] of the module that a draft was made of, whose bytes may have changed since.
func sumOfDraft(d *wasmbin.Draft, wasm []byte) (sum Fingerprint) {
	h := newHash()
	defer hashers.Put(h)
	d.WriteModule(h, wasm)
	h.Sum(sum[:0])
	return sum
}

// failed returns the error of a compile of the module.
func (s *source) failed(err error) error {
	return &Error{Op: "compile", Key: s.key, Name: s.name(), Err: err}
}

// lookup returns a search for the module's code.
func (s *source) lookup() *lookup { return &lookup{c: s.e.c, name: s.name(), most: mostCode(s.size())} }

// name returns that of the module, for people.
func (s *source) name() string {
	if s.given != "" {
		return s.given
	}
	s.naming.Do(func() { s.read(func(wasm []byte) { s.called = ownName(wasm) }) })
	return s.called
}

// read lends the bytes to f, which must not keep or change them.
func (s *source) read(f func(wasm []byte)) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	f(s.wasm)
}

// size returns the length of the module.
func (s *source) size() (n int) {
	s.read(func(wasm []byte) { n = len(wasm) })
	return n
}

// own returns bytes that nobody changes, having copied them if need be. The
// caller's own are not used from here on.
func (s *source) own() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.owned {
		s.wasm, s.owned = bytes.Clone(s.wasm), true
	}
	return s.wasm
}

// verified is own, or [errModified] if the copy isn't what was fingerprinted, or outlined.
func (s *source) verified() ([]byte, error) {
	wasm := s.own()
	s.verify.Do(func() {
		if Sum(wasm) != s.sum || s.lent && !reflect.DeepEqual(s.outline(), outlineOf(wasm)) {
			s.modified = s.failed(errModified)
		}
	})
	return wasm, s.modified
}

// compilable is verified, or an error for a module that wazero refuses as well, but only after
// it has allocated more memory than there may be.
func (s *source) compilable() ([]byte, error) {
	wasm, err := s.verified()
	if err == nil {
		if absurd := wasmbin.CheckCounts(wasm, wazerohook.ByteTables); absurd != nil {
			return nil, s.failed(absurd)
		}
	}
	return wasm, err
}

// outline returns what the section headers tell, or nil if the module is malformed.
func (s *source) outline() *wasmbin.Outline {
	s.scan.Do(func() { s.read(func(wasm []byte) { s.outlined = outlineOf(wasm) }) })
	return s.outlined
}

func outlineOf(wasm []byte) *wasmbin.Outline {
	o, err := wasmbin.Scan(wasm)
	if err != nil {
		return nil
	}
	return &o
}

// debugged reports whether wazero reads debug info in the module, or may.
func (s *source) debugged() bool {
	o := s.outline()
	return s.e.conf.DebugInfo && (o == nil || o.HasDebug)
}

// functions returns how many the module defines, or [wazerohook.AnyFunctions].
func (s *source) functions() int {
	if o := s.outline(); o != nil {
		return int(o.DefinedFuncs)
	}
	return wazerohook.AnyFunctions
}

// codeSize returns the length of the code section, or that of a module whose sections can't be read.
func (s *source) codeSize() int {
	if o := s.outline(); o != nil {
		return o.CodeSize()
	}
	return s.size()
}

// What wazero takes to describe a module. With it, a module counts for 0.95 to 1.25 times what
// the process grows by, with 10 to 10,000 functions, 300 types, 1,000 exports, or much data, and for the definitions
// of its functions, which may be made at any time.
const (
	heapOfModule   = 2 << 10
	heapPerType    = 192 // its entry points, which are code
	heapPerFunc    = 80  // its body in a stub, and where its code begins
	heapPerDef     = 192 // of a function, which has the name of the module: made of all, once one is asked for or a call fails
	heapPerElement = 40  // or half of that, where their indices take two bytes each
	heapPerData    = 72  // segment
	heapPerName    = 48  // of a function or a local
	heapPerCustom  = 64  // section
	heapPerLocal   = 8   // that is declared, in a module that is decoded in full
	heapPerByte    = 16  // of types, imports, exports, globals
	heapPerParam   = 16  // byte of types, in code that enters a function
	heapPerRawByte = 1   // of data and custom sections, and of bodies
)

// heap returns about how much memory wazero takes to describe the module, or the stub that is its image.
func (s *source) heap(image []byte, stubbed bool) int64 {
	o, more := s.outline(), int64(0)
	s.read(func(wasm []byte) {
		names := wasmbin.NamesIn(wasm)
		more = heapPerName*int64(names.Entries) + int64(names.Functions)
		funcs := int64(len(wasm)) / 4 // no more have room
		if o != nil {
			funcs = int64(o.ImportedFuncs) + int64(o.DefinedFuncs)
		}
		more += (heapPerDef + int64(names.Module)) * funcs
		if !stubbed {
			more += heapPerLocal * wasmbin.DeclaredLocals(wasm)
		}
		if s.debugged() {
			more += wasmbin.DebugSize(wasm)
		}
	})
	if o == nil {
		return heapOfModule + heapPerElement*int64(s.size()) + more // whatever is in it
	}
	described, raw := o.Described()
	segments := o.DataSegments
	if !stubbed {
		raw += o.CodeSize()
	} else if of := outlineOf(image); of != nil {
		segments = of.DataSegments // some of which a stub has put together
	}
	return heapOfModule + more + heapPerCustom*int64(o.Customs) + heapPerType*int64(o.Types) + heapPerFunc*int64(o.DefinedFuncs) + heapPerElement*int64(o.ElementsSize()) +
		heapPerData*int64(segments) + heapPerByte*int64(described) + heapPerParam*int64(o.TypesSize()) + heapPerRawByte*int64(raw)
}

// compilePerByte is what wazero takes for a byte of the code section, on one core: from
// 290 to 540 ns for large modules on a free machine, from 360 to 1300 for all on a busy one.
const compilePerByte = 500 * time.Nanosecond

// estimate returns about how long compiling the module is going to take.
func (s *source) estimate(ctx context.Context) time.Duration {
	workers := experimental.GetCompilationWorkers(s.e.c.withWorkers(ctx))
	return max(1, time.Duration(s.codeSize())*compilePerByte/time.Duration(max(1, workers)))
}

// stubDraft returns the module's stub short of the key in it, or nil if there can't be one.
func (s *source) stubDraft() *wasmbin.Draft {
	s.draft.Do(func() {
		if !s.e.stubs {
			return
		}
		s.read(func(wasm []byte) {
			d, err := contain.Value(func() (wasmbin.Draft, error) {
				return wasmbin.NewDraft(wasm, tagSize)
			})
			if err != nil {
				return
			}
			s.drafted = &d
			if s.lent {
				s.draftSum = sumOfDraft(&d, wasm)
			}
		})
	})
	return s.drafted
}

// image returns what stands for the module in the engine: its stub, or a copy where there
// can't be one. It outlives the caller's bytes. The code of the module is that of the image, whatever has become of
// the bytes since they were fingerprinted.
func (s *source) image() (image []byte, stubbed bool, err error) {
	d := s.stubDraft()
	if d == nil || s.lent && s.draftSum != s.sum {
		image, err = s.verified()
		return image, false, err
	}
	s.complete.Do(func() {
		tag := s.e.c.tag("stub", s.key)
		s.completed = d.Stub(tag[:])
	})
	return s.completed, true, nil
}

// tagSize is the length of the tags of stubs.
const tagSize = 32

// tag tells the stubs that are made for one purpose from each other, from those for others and of other
// Caches, and from all that guests can make, who don't know the secret. Each byte of it is in
// memory twice, as wazero copies bodies.
func (c *Cache) tag(purpose string, key Key) [tagSize]byte {
	secret := c.secret()
	return hashed([]byte("modcache "+purpose+" 1\x00"), key[:], secret[:])
}

// canonical is the canonical encoding of a module whose code may be shared.
type canonical struct {
	wasm []byte
	key  Key // of the encoding
}

// canonical returns nil for a module that shares with nobody: it is unusual, or
// its debug info refers to places in its very bytes.
func (s *source) canonical() *canonical {
	s.encode.Do(func() {
		if s.e.c.opts.ExactKeys {
			return
		}
		wasm, err := s.verified()
		if err != nil {
			return // the compile will tell
		}
		if s.outline() == nil || s.debugged() {
			return
		}
		if b, err := wasmbin.Canonical(wasm); err == nil {
			s.encoded = &canonical{wasm: b, key: s.e.key(Sum(b))}
		}
	})
	return s.encoded
}

// errModified means that a module's bytes are not those that were fingerprinted.
var errModified = fmt.Errorf("the module's bytes were changed while it was in use")

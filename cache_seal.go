package modcache

import (
	"cmp"
	"fmt"
	"math"
)

// verify returns what a Cache may use of a, which the store returned under key: of this engine,
// at most so large, and sealed. most is 0 if it isn't known what module it is for. What is
// fresh was returned by a store that readsFrames.
func verify(key Key, engine string, a *Artifact, most int64, fresh bool) (*Artifact, error) {
	if most > 0 && a.Size() > most {
		return nil, fmt.Errorf("%w: %d bytes, where at most %d can be", ErrCorrupt, a.Size(), most)
	}
	if a.info.Engine != engine {
		return nil, fmt.Errorf("%w %q, this is %q", errOtherEngine, a.info.Engine, engine)
	}
	if fresh && a.InMemory() && a.Size() >= sealSize {
		return a, nil
	}
	return sealedCopy(key, a, cmp.Or(most, believedCode))
}

// readsFrames reports whether each Get of a store reads and verifies an entry's frame anew, so that what is in
// memory then is nobody else's.
func readsFrames(s Store) bool {
	switch s.(type) {
	case *Disk, *FSStore:
		return true
	}
	return false
}

const (
	maxCode      = math.MaxInt32 // the size of the largest artifact that is loaded, whatever it is for
	believedCode = 64 << 20      // what a store may claim where nothing is known of the module, before its seal was looked at
)

// mostCode returns how large the artifact of a module of so many bytes can be, as a bound for
// what a store may claim: several times what wazero's densest code takes, with its source map.
func mostCode(wasm int) int64 { return believedCode + 256*int64(wasm) }

// errOtherEngine is why an artifact is corrupt that another engine made, under a key of
// this one's.
var errOtherEngine = fmt.Errorf("%w: made by engine", ErrCorrupt)

package modcache

import (
	"fmt"
	"math"
)

// verify returns what a Cache may use of a, which the store returned under key: of this engine,
// at most so large, and sealed.
func verify(key Key, engine string, a *Artifact, most int64) (*Artifact, error) {
	if a.Size() > most {
		return nil, fmt.Errorf("%w: %d bytes, where at most %d can be", ErrCorrupt, a.Size(), most)
	}
	if a.info.Engine != engine {
		return nil, fmt.Errorf("%w %q, this is %q", errOtherEngine, a.info.Engine, engine)
	}
	return sealedCopy(key, a)
}

// maxCode is the size of the largest artifact that is loaded, whatever it is for.
const maxCode = math.MaxInt32

// mostCode returns how large the artifact of a module of so many bytes can be, as a bound for
// what a store may claim: several times what wazero's densest code takes, with its source map.
func mostCode(wasm int) int64 { return min(maxCode, 64<<20+256*int64(wasm)) }

// errOtherEngine is why an artifact is corrupt that another engine made, under a key of
// this one's.
var errOtherEngine = fmt.Errorf("%w: made by engine", ErrCorrupt)

package modcache

import (
	"cmp"
	"fmt"
	"math"
	"sync"

	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/internal/wazerohook"
)

// verify returns what a Cache may use of a, which the store returned under key: of this engine,
// at most so large, and sealed. It takes a over unless it fails. Nothing is read but memory: what else is to be looked at comes
// as unsealed. most is 0 if it isn't known what module it is for. What is fresh was returned by a store that readsFrames.
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
	believed := cmp.Or(most, believedCode)
	if e, ok := a.src.(selfVerifying); ok && e.verifies(key) || a.InMemory() && a.Size() <= sealPiece || a.Size() > maxCode {
		return sealedCopy(key, a, believed)
	}
	return newUnsealed(key, a, believed), nil
}

// unsealed is the source of an artifact whose seal is looked at when it is read. Code is read from it into the memory in
// which it is used, and others get a sealed copy.
type unsealed struct {
	key      Key
	a        *Artifact
	believed int64
	copy     func() (*Artifact, error)
}

func newUnsealed(key Key, a *Artifact, believed int64) *Artifact {
	u := &unsealed{key, a, believed, sync.OnceValues(func() (*Artifact, error) { return sealedCopy(key, a, believed) })}
	lazy := NewArtifactFrom(u, a.Size(), a.info)
	lazy.lane = a.lane
	return lazy
}

// ReadAt implements [io.ReaderAt].
func (u *unsealed) ReadAt(p []byte, off int64) (int, error) {
	a, err := u.copy()
	if err != nil {
		return 0, err
	}
	return a.ReadAt(p, off)
}

// Close implements [io.Closer].
func (u *unsealed) Close() error { return u.a.Close() }

// entry returns the entry in the artifact, having read all of it, and found that what it has read is what was sealed.
func (u *unsealed) entry(version string, functions int) (*wazerohook.Entry, error) {
	size := u.a.Size() - sealSize
	if u.a.Size() > u.believed {
		if err := checkSeal(u.key, u.a); err != nil {
			return nil, err
		}
	}
	var found [sealSize]byte // before anything is allocated because of what the store says of its size
	src := contain.ReaderAt{Src: u.a}
	if _, err := readFull(src, found[:], size); err != nil {
		return nil, err
	}
	e, err := wazerohook.ReadEntry(src, size, version, functions)
	if err != nil {
		return nil, err
	}
	h := newSeal(u.key, u.a.info.Engine)
	if err = e.Fetch(src); err == nil {
		e.Hash(h)
		err = isSeal(h, found[:])
	}
	if err != nil {
		e.Discard()
		return nil, err
	}
	return e, nil
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

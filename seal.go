package modcache

import (
	"context"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/zeebo/blake3"
)

// sealSize is the length of the digest that ends everything a Cache stores.
const sealSize = 32

// A Cache seals what it stores: the machine code is followed by a hash over the
// key, the engine and the code. Stores that verify what they read don't need it,
// but a Store may be anybody's, and machine code that is subtly wrong is worse
// than none.
func seal(key Key, engine string, code []byte) []byte {
	sum := sealSum(key, engine, code)
	return append(code, sum[:]...)
}

// sealedCopy returns a copy of a in memory, having found that the copy is what was sealed for
// this key. What was sound in a store's memory a moment ago need not be so now, so that
// nothing is used but what was checked for this use. The exception is an artifact of a [Disk] or an
// [FSStore], whose frame is bound to the key and verified as it is read: checking it twice would
// double the time of a warm start.
func sealedCopy(key Key, a *Artifact) (*Artifact, error) {
	size := a.Size() - sealSize
	if size < 0 {
		return nil, fmt.Errorf("%w: %d bytes hold no seal", ErrCorrupt, a.Size())
	}
	if e, ok := a.src.(selfVerifying); ok && e.verifies(key) {
		return a, nil
	}
	b, err := readWhole(a, a.Size())
	if err != nil {
		return nil, err
	}
	sum := sealSum(key, a.info.Engine, b[:size])
	if subtle.ConstantTimeCompare(sum[:], b[size:]) != 1 {
		return nil, fmt.Errorf("%w: the seal is not of this key and these bytes", ErrCorrupt)
	}
	return NewArtifact(b, a.info), nil
}

// selfVerifying is the source of an artifact of a Disk or an FSStore.
type selfVerifying interface {
	// verifies reports whether what is read from now on is verified anew, as that of this key: another
	// store may have kept the artifact since it was read in part.
	verifies(key Key) bool
}

// readWhole returns a copy of an artifact that may be shorter than it says: looking at
// its last byte first keeps it from making us allocate for what isn't there. Whether it
// was cut short or merely can't be read now, we can't tell.
func readWhole(a io.ReaderAt, size int64) ([]byte, error) {
	if _, err := a.ReadAt(make([]byte, 1), size-1); err != nil {
		return nil, err
	}
	b := make([]byte, size)
	_, err := a.ReadAt(b, 0)
	return b, err
}

func sealSum(key Key, engine string, code []byte) (sum [sealSize]byte) {
	h := blake3.New()
	h.Write(key[:])
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], uint64(len(engine)))
	h.Write(n[:])
	_, _ = io.WriteString(h, engine)
	h.Write(code)
	h.Sum(sum[:0])
	return sum
}

// A Disk vouches for what it was given, and a Layered gives it what another store returned before
// the Cache that asked has checked that. So the Cache says that it uses nothing without a seal.
type sealedOnly struct{}

func withSealed(ctx context.Context) context.Context {
	return context.WithValue(ctx, sealedOnly{}, true)
}

func wantsSealed(ctx context.Context) bool { return ctx.Value(sealedOnly{}) != nil }

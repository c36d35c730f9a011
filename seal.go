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
	h := newSeal(key, engine)
	h.Write(code)
	return h.Sum(code)
}

// sealedCopy returns a copy of a in memory, having found that the copy is what was sealed for
// this key. What was sound in a store's memory a moment ago need not be so now, so that
// nothing is used but what was checked for this use. The exception is an artifact of a [Disk] or an
// [FSStore], whose frame is bound to the key and verified as it is read: checking it twice would
// double the time of a warm start. What is small is in memory by then: see verify.
//
// Up to believed bytes are allocated because the store says that there are as many. If it says more, they are first
// found to be there, and sealed, in memory that doesn't grow with them.
func sealedCopy(key Key, a *Artifact, believed int64) (*Artifact, error) {
	size := a.Size() - sealSize
	if a.Size() < sealSize || a.Size() > maxCode {
		return nil, fmt.Errorf("%w: %d bytes are none that were sealed", ErrCorrupt, a.Size())
	}
	if e, ok := a.src.(selfVerifying); ok && e.verifies(key) {
		return a, nil
	}
	if a.Size() > believed {
		if err := checkSeal(key, a); err != nil {
			return nil, err
		}
	}
	b, err := readWhole(a, a.Size())
	if err != nil {
		return nil, err
	}
	h := newSeal(key, a.info.Engine)
	h.Write(b[:size])
	if err := isSeal(h, b[size:]); err != nil {
		return nil, err
	}
	return NewArtifact(b, a.info), nil
}

// checkSeal reads an artifact to its end, in little memory, and returns why it isn't what was sealed for this key.
func checkSeal(key Key, a *Artifact) error {
	size, h := a.Size()-sealSize, newSeal(key, a.info.Engine)
	if _, err := io.CopyBuffer(h, io.NewSectionReader(a, 0, size), make([]byte, sealPiece)); err != nil {
		return err
	}
	var found [sealSize]byte
	if _, err := readFull(a, found[:], size); err != nil {
		return err
	}
	return isSeal(h, found[:])
}

// sealPiece is how much is read at a time of what is only looked at, and up to which size a copy is made at once.
const sealPiece = 256 << 10

// selfVerifying is the source of an artifact of a Disk or an FSStore.
type selfVerifying interface {
	// verifies reports whether what is read from now on is verified anew, as that of this key: another
	// store may have kept the artifact since it was read in part.
	verifies(key Key) bool
}

// isSeal returns why a seal isn't that of what was written to h.
func isSeal(h *blake3.Hasher, seal []byte) error {
	if subtle.ConstantTimeCompare(h.Sum(nil), seal) != 1 {
		return fmt.Errorf("%w: the seal is not of this key and these bytes", ErrCorrupt)
	}
	return nil
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

// newSeal returns what makes the seal of the code that is written to it.
func newSeal(key Key, engine string) *blake3.Hasher {
	h := blake3.New()
	h.Write(key[:])
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], uint64(len(engine)))
	h.Write(n[:])
	_, _ = io.WriteString(h, engine)
	return h
}

// A Disk vouches for what it was given, and a Layered gives it what another store returned before
// the Cache that asked has checked that. So a Cache says that it is one, which uses nothing without a seal; and which waits for no layer twice.
type forCache struct{}

func withCache(ctx context.Context) context.Context {
	return context.WithValue(ctx, forCache{}, true)
}

func fromCache(ctx context.Context) bool { return ctx.Value(forCache{}) != nil }

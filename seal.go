package modcache

import (
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

// readCode reads machine code to its end, and leaves room for the seal.
func readCode(r io.Reader) ([]byte, error) {
	if sized, ok := r.(interface{ Len() int }); ok {
		n := sized.Len()
		b := make([]byte, n, n+sealSize)
		_, err := io.ReadFull(r, b)
		return b, err
	}
	return io.ReadAll(r)
}

// unsealed returns the length of the code in a, having checked the seal where
// the artifact's own source doesn't verify what it reads.
func unsealed(key Key, a *Artifact) (int64, error) {
	size := a.Size() - sealSize
	if size < 0 {
		return 0, fmt.Errorf("%w: %d bytes hold no seal", ErrCorrupt, a.Size())
	}
	if !a.InMemory() {
		return size, nil
	}
	if k := a.sealedAs.Load(); k != nil && *k == key {
		return size, nil
	}
	sum := sealSum(key, a.info.Engine, a.mem[:size])
	if subtle.ConstantTimeCompare(sum[:], a.mem[size:]) != 1 {
		return 0, fmt.Errorf("%w: the seal is not of this key and these bytes", ErrCorrupt)
	}
	a.sealedAs.Store(&key)
	return size, nil
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

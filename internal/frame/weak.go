package frame

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
)

// CheckPublic returns what is wrong with a public key, before something is trusted because of it.
func CheckPublic(key ed25519.PublicKey) error {
	switch {
	case len(key) != ed25519.PublicKeySize:
		return fmt.Errorf("the key has %d bytes, want %d", len(key), ed25519.PublicKeySize)
	case bytes.Count(key, []byte{0}) == len(key):
		return errors.New("the key is zero: it was never set")
	case weak(key):
		return errors.New("anybody can sign for the key: its point has a small order")
	}
	return nil
}

// weak reports whether a key is a point of order 1, 2, 4 or 8, in any encoding. crypto/ed25519 takes such for keys, and a signature
// for an eighth of all texts, or more, that nobody needs a private key for.
func weak(key ed25519.PublicKey) bool {
	y := [ed25519.PublicKeySize]byte(key)
	y[len(y)-1] &= 0x7f // without the sign of x
	return slices.Contains(smallOrder, string(y[:]))
}

// smallOrder are the y of these points, of less than 255 bits. The prime is 2^255-19.
var smallOrder = []string{
	number(0, 0), // order 4
	number(1, 0), // order 1
	"\x26\xe8\x95\x8f\xc2\xb2\x27\xb0\x45\xc3\xf4\x89\xf2\xef\x98\xf0\xd5\xdf\xac\x05\xd3\xc6\x33\x39\xb1\x38\x02\x88\x6d\x53\xfc\x05", // order 8
	"\xc7\x17\x6a\x70\x3d\x4d\xd8\x4f\xba\x3c\x0b\x76\x0d\x10\x67\x0f\x2a\x20\x53\xfa\x2c\x39\xcc\xc6\x4e\xc7\xfd\x77\x92\xac\x03\x7a", // order 8
	number(0xec, 0xff), // the prime less 1: order 2
	number(0xed, 0xff), // the prime: 0
	number(0xee, 0xff), // the prime and 1: 1
}

// number is one of 255 bits whose first byte is low; all others are rest.
func number(low, rest byte) string {
	b := bytes.Repeat([]byte{rest}, ed25519.PublicKeySize)
	b[0] = low
	b[len(b)-1] &= 0x7f
	return string(b)
}

package wasmbin

import (
	"math/big"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// decode is what the specification says about integers: at most so many bytes,
// and a value in range.
func decode(b []byte, bits uint, signed bool) (v *big.Int, n int, ok bool) {
	v = new(big.Int)
	for i, c := range b {
		if uint(i)*7 >= bits {
			return nil, 0, false
		}
		v.Or(v, new(big.Int).Lsh(big.NewInt(int64(c&0x7f)), uint(i)*7))
		if c < 0x80 {
			n = i + 1
			break
		}
	}
	if n == 0 {
		return nil, 0, false
	}
	one := big.NewInt(1)
	lo, hi := new(big.Int), new(big.Int).Lsh(one, bits)
	if signed {
		if b[n-1]&0x40 != 0 {
			v.Sub(v, new(big.Int).Lsh(one, uint(n)*7))
		}
		hi.Lsh(one, bits-1)
		lo.Neg(hi)
	}
	return v, n, v.Cmp(lo) >= 0 && v.Cmp(hi) < 0
}

func TestIntegers(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	likely := []byte{0, 0x7f, 0x80, 0xff, 0x40, 0x3f, 0xc0, 0xbf, 0x0f, 0x10, 0x70, 0x78, 0x08, 1, 0x7e}
	for range 30_000 {
		b := make([]byte, 1+rnd.IntN(12))
		for i := range b {
			b[i] = likely[rnd.IntN(len(likely))]
			if i < len(b)-1 && rnd.IntN(4) > 0 {
				b[i] |= 0x80
			}
		}
		for _, bits := range []uint{32, 64} {
			r := newReader(b, 0, len(b))
			v := r.unsigned(bits)
			want, n, ok := decode(b, bits, false)
			require.Equal(t, ok, r.err == nil, "%x", b)
			if ok {
				require.Equal(t, want.Uint64(), v, "%x", b)
				require.Equal(t, n, r.pos, "%x", b)
				require.Len(t, uleb(nil, v), ulebLen(v))
			}
		}
		for _, bits := range []uint{32, 33, 64} {
			r := newReader(b, 0, len(b))
			v := r.signed(bits)
			want, n, ok := decode(b, bits, true)
			require.Equal(t, ok, r.err == nil, "%x", b)
			if !ok {
				continue
			}
			require.Equal(t, want.Int64(), v, "%x", b)
			require.Equal(t, n, r.pos, "%x", b)
			short := sleb(nil, v)
			require.Len(t, short, slebLen(v))

			// The editor notices padding, and only that.
			e := newEditor(b, 0, len(b))
			e.signed(bits)
			require.NoError(t, e.err)
			require.Equal(t, n-len(short), e.saved, "%x", b)
		}
	}
}

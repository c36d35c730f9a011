package frame

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// reseal makes the digests of a frame match what it says, as somebody could who
// wants to attack a decoder that has no key. It reports false if it can't.
func reseal(b []byte) bool {
	h, headerLen, t, err := parseFixed(b)
	if err != nil || h.auth != Checksum || headerLen > int64(len(b)) {
		return false
	}
	entry := b[fixedSize+t.len():]
	at := headerLen
	for i := range h.chunks() {
		n := int64(h.rawLen(i))
		if h.codec != raw {
			n = int64(binary.LittleEndian.Uint32(entry))
		}
		if n > int64(len(b))-at {
			break
		}
		size := entrySize(h.codec, Checksum)
		Checksum.appendDigest(entry[:size-checksumSize], b[at:at+n])
		entry = entry[size:]
		at += n
	}
	Checksum.appendDigest(b[:headerLen-checksumSize], b[:headerLen-checksumSize])
	return true
}

func frameOf(t testing.TB, b []byte, o Options) []byte {
	var buf bytes.Buffer
	o.Compressor, o.ChunkLog = NewCompressor(), minChunkLog
	_, err := Write(&buf, Bytes(b), int64(len(b)), Meta{Engine: "e"}, &o)
	require.NoError(t, err)
	return buf.Bytes()
}

func FuzzForged(f *testing.F) {
	text := bytes.Repeat([]byte("machine code "), 700)
	f.Add(frameOf(f, text, Options{}))
	f.Add(frameOf(f, text, Options{Compress: true}))
	f.Add(frameOf(f, nil, Options{Compress: true}))
	o := &Options{Compressor: NewCompressor()}
	f.Fuzz(func(t *testing.T, b []byte) {
		if !reseal(b) {
			return
		}
		var key [32]byte
		copy(key[:], b[32:])
		check := func(got []byte, err error) {
			if err != nil {
				require.True(t, errors.Is(err, ErrCorrupt) || errors.Is(err, ErrAuth) || errors.Is(err, ErrTooLarge), "%v", err)
			}
			require.LessOrEqual(t, len(got), maxRatio*len(b))
		}
		r, err := Open(Bytes(b), int64(len(b)), key, o)
		if err == nil {
			require.LessOrEqual(t, r.Size(), int64(maxRatio*len(b)), "before anything is allocated")
			check(r.Bytes())
		}
		s, err := NewStream(bytes.NewReader(b), key, math.MaxInt64, o)
		if err == nil {
			check(io.ReadAll(s))
		}
		s, err = NewStream(bytes.NewReader(b), key, int64(maxRatio*len(b)), o)
		if err == nil {
			check(s.Bytes())
		}
	})
}

// TestForgedLengths sets each length in a header to odd values. With its digests
// made to match, only the checks of the lengths are left.
func TestForgedLengths(t *testing.T) {
	odd := []uint64{0, 1, 31, 4095, 4096, 1 << 20, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 36, 1<<36 + 1, 1 << 62, 1<<63 - 1, 1 << 63, 1<<64 - 1}
	for _, o := range []Options{{}, {Compress: true}} {
		good := frameOf(t, bytes.Repeat([]byte("machine code "), 700), o)
		sizes := map[int]int{9: 1, 10: 1, 11: 1, 12: 4, 16: 8, 24: 8, 124: 1, 145: 4, 145 + 36: 4}
		for off, width := range sizes {
			for _, v := range odd {
				b := bytes.Clone(good)
				var le [8]byte
				binary.LittleEndian.PutUint64(le[:], v)
				copy(b[off:off+width], le[:])
				if bytes.Equal(b, good) {
					continue
				}
				reseal(b)
				if o.Compress || off < 145 {
					_, err := Open(Bytes(b), int64(len(b)), [32]byte{}, &Options{Compressor: NewCompressor()})
					if err == nil && bytes.Equal(b, good) {
						continue // resealing has repaired it
					}
					require.Error(t, err, "offset %d, value %d", off, v)
				}
			}
		}
	}
}

// TestChunksAreVerifiedBeforeTheyAreDecoded keeps the decompressor away from
// bytes that nobody vouches for.
func TestChunksAreVerifiedBeforeTheyAreDecoded(t *testing.T) {
	b := frameOf(t, bytes.Repeat([]byte("machine code "), 700), Options{Compress: true})
	b[len(b)-1] ^= 1
	r, err := Open(Bytes(b), int64(len(b)), [32]byte{}, &Options{}) // no Compressor: using it would panic
	require.NoError(t, err)
	_, err = r.ReadAt(make([]byte, 10), r.Size()-10)
	require.ErrorIs(t, err, ErrCorrupt)
}

// zeros is a file that has some bytes and then nothing but zeros, of which it keeps none.
type zeros struct{ head []byte }

func (z zeros) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off < int64(len(z.head)) {
		copy(p, z.head[off:])
	}
	return len(p), nil
}

// TestLongHeaders verifies headers that are longer than what Open reads at first, and makes no room for a longer one
// that somebody claims to have without the key.
func TestLongHeaders(t *testing.T) {
	signer := NewSigner(ed25519.NewKeyFromSeed(make([]byte, 32)))
	for _, auth := range []Auth{{}, NewKeyed([]byte("secret")), signer} {
		for _, compress := range []bool{false, true} {
			o := Options{Auth: auth, Compress: compress, Compressor: NewCompressor()}
			want := make([]byte, 2000<<minChunkLog)
			b := frameOf(t, want, o)
			src := struct{ io.ReaderAt }{Bytes(b)}
			r, err := Open(src, int64(len(b)), [32]byte{}, &o)
			require.NoError(t, err)
			require.Greater(t, r.headerLen, int64(prefixSize))
			got, err := r.Bytes()
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, got))
			for _, at := range []int64{prefixSize - 1, prefixSize, 20_000, r.headerLen - 1} {
				b[at] ^= 1
				_, err := Open(src, int64(len(b)), [32]byte{}, &o)
				require.True(t, errors.Is(err, ErrCorrupt) || errors.Is(err, ErrAuth), "%v", err)
				b[at] ^= 1
			}

			h := &header{codec: o.codec(), auth: auth.kind, keyID: auth.id, chunkLog: minChunkLog, size: 1 << 33, encoded: 1 << 33}
			claimed := headerSize(texts{}, h.size, h.chunkLog, h.codec, h.auth)
			forged := zeros{h.appendTo(nil)}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err = Open(forged, claimed+h.size, [32]byte{}, &o)
			runtime.ReadMemStats(&after)
			require.True(t, errors.Is(err, ErrCorrupt) || errors.Is(err, ErrAuth) || h.size > MaxSize && errors.Is(err, ErrTooLarge), "%v", err)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(claimed/10))
		}
	}
}

// TestStreamHeadersAreBounded reads no long header of who has no key, whatever artifact it says to be of.
func TestStreamHeadersAreBounded(t *testing.T) {
	longest := texts{math.MaxUint8, math.MaxUint8}
	require.LessOrEqual(t, headerSize(longest, MaxSize, defaultChunkLog, zstandard, Ed25519), int64(MaxStreamHeader), "of what is written")

	signer := NewSigner(ed25519.NewKeyFromSeed(make([]byte, 32)))
	h := &header{auth: signer.kind, keyID: signer.id, chunkLog: minChunkLog, size: MaxSize, encoded: MaxSize}
	src := bytes.NewReader(append(h.appendTo(nil), make([]byte, 1<<20)...))
	before := src.Len()
	_, err := NewStream(src, [32]byte{}, MaxSize, &Options{Auth: signer})
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorContains(t, err, "a header of")
	require.Equal(t, fixedSize, before-src.Len(), "bytes read")
}

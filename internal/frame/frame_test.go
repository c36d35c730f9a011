package frame_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/blake3"

	"github.com/modcache/modcache/internal/frame"
)

var (
	meta = frame.Meta{
		Key:         [32]byte{1, 2, 3},
		Engine:      "wazero v1.12.0 linux/amd64",
		Module:      [32]byte{4, 5, 6},
		Name:        "module.wasm",
		WasmSize:    1234,
		CompileTime: 5 * time.Second,
		Created:     time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
	}
	private = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
)

// small chunks make several of them out of few bytes.
const chunkLog, chunkSize = 12, 1 << 12

func options(o frame.Options) *frame.Options {
	o.Compressor, o.ChunkLog = frame.NewCompressor(), chunkLog
	return &o
}

var kinds = map[string]*frame.Options{
	"digest":  options(frame.Options{}),
	"keyed":   options(frame.Options{Auth: frame.NewKeyed([]byte("secret"))}),
	"ed25519": options(frame.Options{Auth: frame.NewSigner(private)}),
	"zstd":    options(frame.Options{Compress: true}),
}

// code returns bytes of which about half can be compressed.
func code(size int) []byte {
	b := make([]byte, size)
	r := rand.New(rand.NewPCG(1, uint64(size)))
	for i := range b {
		if i/chunkSize%3 != 1 {
			b[i] = byte(r.Uint32() & 15)
		} else {
			b[i] = byte(r.Uint32())
		}
	}
	return b
}

func encode(t testing.TB, b []byte, o *frame.Options) []byte {
	t.Helper()
	var buf bytes.Buffer
	n, err := frame.Write(&buf, frame.Bytes(b), int64(len(b)), meta, o)
	require.NoError(t, err)
	require.EqualValues(t, buf.Len(), n)
	require.LessOrEqual(t, n, frame.MaxLen(meta, int64(len(b)), o))
	return buf.Bytes()
}

// decode reads a whole frame by each of the ways there are, which must agree.
func decode(t testing.TB, b []byte, o *frame.Options) ([]byte, error) {
	t.Helper()
	at, atErr := decodeAt(bytes.NewReader(b), int64(len(b)), o)
	mem, memErr := decodeAt(frame.Bytes(b), int64(len(b)), o)
	stream, streamErr := decodeStream(iotest.HalfReader(bytes.NewReader(b)), o)
	require.Equal(t, atErr == nil, memErr == nil, "%v, %v", atErr, memErr)
	require.Equal(t, atErr == nil, streamErr == nil, "%v, %v", atErr, streamErr)
	whole, wholeErr := decodeWhole(iotest.HalfReader(bytes.NewReader(b)), o)
	require.Equal(t, atErr == nil, wholeErr == nil, "%v, %v", atErr, wholeErr)
	require.True(t, bytes.Equal(at, mem) && bytes.Equal(at, stream) && bytes.Equal(at, whole))
	return at, atErr
}

func decodeAt(src io.ReaderAt, size int64, o *frame.Options) ([]byte, error) {
	r, err := frame.Open(src, size, meta.Key, o)
	if err != nil {
		return nil, err
	}
	return r.Bytes()
}

func decodeStream(src io.Reader, o *frame.Options) ([]byte, error) {
	s, err := frame.NewStream(src, meta.Key, 1<<20, o)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(s)
	if err != nil {
		return nil, err
	}
	return b, nil
}

func decodeWhole(src io.Reader, o *frame.Options) ([]byte, error) {
	s, err := frame.NewStream(src, meta.Key, 1<<20, o)
	if err != nil {
		return nil, err
	}
	return s.Bytes()
}

func TestRoundTrip(t *testing.T) {
	for name, o := range kinds {
		for _, size := range []int{0, 1, chunkSize - 1, chunkSize, chunkSize + 1, 10*chunkSize + 7} {
			t.Run(fmt.Sprint(name, size), func(t *testing.T) {
				want := code(size)
				b := encode(t, want, o)
				got, err := decode(t, b, o)
				require.NoError(t, err)
				require.True(t, bytes.Equal(want, got))

				r, err := frame.Open(bytes.NewReader(b), int64(len(b)), meta.Key, o)
				require.NoError(t, err)
				require.Equal(t, meta, r.Meta())
				require.EqualValues(t, size, r.Size())

				// A source that isn't in memory makes the same frame.
				var buf bytes.Buffer
				_, err = frame.Write(&buf, bytes.NewReader(want), int64(size), meta, o)
				require.NoError(t, err)
				require.True(t, bytes.Equal(b, buf.Bytes()))
				require.LessOrEqual(t, buf.Cap()-buf.Len(), buf.Len()/4+64, "who keeps the frame keeps all of the buffer")
			})
		}
	}
}

func TestZeroMeta(t *testing.T) {
	var buf bytes.Buffer
	_, err := frame.Write(&buf, frame.Bytes(nil), 0, frame.Meta{}, kinds["digest"])
	require.NoError(t, err)
	r, err := frame.Open(bytes.NewReader(buf.Bytes()), int64(buf.Len()), [32]byte{}, kinds["digest"])
	require.NoError(t, err)
	require.True(t, r.Meta().Created.IsZero())
}

func TestWriteRefuses(t *testing.T) {
	long := meta
	long.Engine = string(make([]byte, 256))
	_, err := frame.Write(io.Discard, frame.Bytes(nil), 0, long, kinds["digest"])
	require.ErrorContains(t, err, "engine identity")
	_, err = frame.Write(io.Discard, frame.Bytes("short"), 10, meta, kinds["digest"])
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	_, err = frame.Write(io.Discard, bytes.NewReader([]byte("short")), 10, meta, kinds["digest"])
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	_, err = frame.Write(io.Discard, frame.Bytes(nil), 0, meta, options(frame.Options{Auth: frame.NewVerifier(private.Public().(ed25519.PublicKey))}))
	require.ErrorContains(t, err, "private key")
}

func TestReadAtAnyRange(t *testing.T) {
	const size = 5*chunkSize + 100
	want := code(size)
	for name, o := range kinds {
		t.Run(name, func(t *testing.T) {
			b := encode(t, want, o)
			r, err := frame.Open(bytes.NewReader(b), int64(len(b)), meta.Key, o)
			require.NoError(t, err)
			require.NoError(t, iotest.TestReader(io.NewSectionReader(r, 0, size), want))
			rng := rand.New(rand.NewPCG(1, 2))
			for range 2000 {
				off, n := rng.IntN(size+10), rng.IntN(3*chunkSize)
				p := make([]byte, n)
				got, err := r.ReadAt(p, int64(off))
				wantN := max(0, min(n, size-off))
				require.Equal(t, wantN, got)
				require.Equal(t, wantN < n, err == io.EOF)
				require.True(t, bytes.Equal(want[min(off, size):][:wantN], p[:got]))
			}
			_, err = r.ReadAt(make([]byte, 1), -1)
			require.Error(t, err)
		})
	}
}

// TestEveryBitFlip flips each bit of a frame: all of it is damage, whose kind is
// one of the two errors, whatever bit it is.
func TestEveryBitFlip(t *testing.T) {
	for name, o := range kinds {
		t.Run(name, func(t *testing.T) {
			b := encode(t, code(chunkSize+50), o)
			step := 1
			if name == "ed25519" {
				step = 7 // signatures are slow to verify
			}
			for bit := 0; bit < 8*len(b); bit += step {
				b[bit/8] ^= 1 << (bit % 8)
				_, err := decodeAt(frame.Bytes(b), int64(len(b)), o)
				if bit%97 == 0 {
					_, err = decode(t, b, o)
				}
				if !errors.Is(err, frame.ErrCorrupt) && !errors.Is(err, frame.ErrAuth) {
					t.Fatalf("bit %d: %v", bit, err)
				}
				b[bit/8] ^= 1 << (bit % 8)
			}
		})
	}
}

func TestEveryTruncation(t *testing.T) {
	for name, o := range kinds {
		t.Run(name, func(t *testing.T) {
			b := encode(t, code(2*chunkSize+50), o)
			for n := range b {
				_, err := decodeAt(frame.Bytes(b[:n]), int64(n), o)
				if n%97 == 0 {
					_, err = decode(t, b[:n], o)
				}
				require.ErrorIs(t, err, frame.ErrCorrupt, "length %d", n)
			}
			_, err := decode(t, append(b, 0), o)
			require.ErrorIs(t, err, frame.ErrCorrupt, "trailing byte")
		})
	}
}

func TestDamagedChunkSparesTheOthers(t *testing.T) {
	want := code(4 * chunkSize)
	o := kinds["digest"]
	b := encode(t, want, o)
	b[len(b)-chunkSize-1] ^= 1 // in the third chunk
	r, err := frame.Open(bytes.NewReader(b), int64(len(b)), meta.Key, o)
	require.NoError(t, err)

	p := bytes.Repeat([]byte{0xaa}, 4*chunkSize-10)
	n, err := r.ReadAt(p, 10)
	require.ErrorIs(t, err, frame.ErrCorrupt)
	require.Equal(t, 2*chunkSize-10, n)
	require.True(t, bytes.Equal(want[10:2*chunkSize], p[:n]))
	require.Equal(t, make([]byte, len(p)-n), p[n:], "unverified bytes must not be left behind")

	_, err = r.ReadAt(make([]byte, 1), 2*chunkSize)
	require.ErrorIs(t, err, frame.ErrCorrupt)
	_, err = r.ReadAt(p[:chunkSize], 3*chunkSize)
	require.NoError(t, err)
}

func TestOtherKeys(t *testing.T) {
	other := options(frame.Options{Auth: frame.NewKeyed([]byte("another secret"))})
	kinds := maps.Clone(kinds)
	kinds["other"] = other
	for from, w := range kinds {
		for to, r := range kinds {
			_, err := decode(t, encode(t, code(10), w), r)
			if same := from == to || from+to == "digestzstd" || from+to == "zstddigest"; same {
				require.NoError(t, err)
				continue
			}
			require.ErrorIs(t, err, frame.ErrAuth, "%s as %s", from, to)
			require.ErrorIs(t, err, frame.ErrForeign)
		}
	}
	b := encode(t, code(10), kinds["ed25519"])
	_, err := decode(t, b, options(frame.Options{Auth: frame.NewVerifier(private.Public().(ed25519.PublicKey))}))
	require.NoError(t, err)
}

// TestTrusted reads with several keys, of which the frame names one.
func TestTrusted(t *testing.T) {
	signers := []frame.Auth{frame.NewSigner(private), frame.NewKeyed([]byte("secret"))}
	for i, signer := range signers {
		b := encode(t, code(10), options(frame.Options{Auth: signer}))
		_, err := decode(t, b, options(frame.Options{Trusted: signers}))
		require.NoError(t, err)
		_, err = decode(t, b, options(frame.Options{Auth: signer, Trusted: signers[1-i : 2-i]}))
		require.ErrorIs(t, err, frame.ErrForeign, "a key that isn't trusted, though it is the writer's own")

		o, err := frame.Inspect(bytes.NewReader(b), int64(len(b)))
		require.NoError(t, err)
		require.Equal(t, meta, o.Meta)
		require.Equal(t, signer.ID(), frame.KeyID(o.Header[128:144]))
		require.EqualValues(t, 10, o.Size)
		require.Equal(t, b[:len(o.Header)], o.Header)
		_, err = frame.Inspect(bytes.NewReader(b[1:]), int64(len(b))-1)
		require.ErrorIs(t, err, frame.ErrCorrupt)
	}
	b := encode(t, code(10), kinds["digest"])
	_, err := decode(t, b, options(frame.Options{Trusted: signers}))
	require.ErrorIs(t, err, frame.ErrAuth, "a digest proves nothing to who trusts keys")
}

func TestAnotherKeysFrame(t *testing.T) {
	for name, o := range kinds {
		b := encode(t, code(10), o)
		_, err := frame.Open(bytes.NewReader(b), int64(len(b)), [32]byte{9}, o)
		require.ErrorIs(t, err, frame.ErrCorrupt, name)
		_, err = frame.NewStream(bytes.NewReader(b), [32]byte{9}, 1<<20, o)
		require.ErrorIs(t, err, frame.ErrCorrupt, name)
	}
}

func TestStreamLimit(t *testing.T) {
	b := encode(t, code(1000), kinds["digest"])
	_, err := frame.NewStream(bytes.NewReader(b), meta.Key, 999, kinds["digest"])
	require.ErrorIs(t, err, frame.ErrTooLarge)
	_, err = frame.NewStream(bytes.NewReader(b), meta.Key, 1000, kinds["digest"])
	require.NoError(t, err)
}

// TestFailingSource tells a reader that fails from one that returns damage.
func TestFailingSource(t *testing.T) {
	b := encode(t, code(3*chunkSize), kinds["digest"])
	broken := errors.New("I/O error")
	for off := 0; off <= len(b); off += 100 {
		_, err := decodeAt(failingAt{bytes.NewReader(b), int64(off), broken}, int64(len(b)), kinds["digest"])
		require.ErrorIs(t, err, broken)
		require.NotErrorIs(t, err, frame.ErrCorrupt)
		for _, decode := range []func(io.Reader, *frame.Options) ([]byte, error){decodeStream, decodeWhole} {
			_, err = decode(io.MultiReader(bytes.NewReader(b[:off]), iotest.ErrReader(broken)), kinds["digest"])
			require.ErrorIs(t, err, broken)
			require.NotErrorIs(t, err, frame.ErrCorrupt)
		}
	}
}

type failingAt struct {
	io.ReaderAt
	from int64
	err  error
}

func (f failingAt) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) >= f.from {
		return 0, f.err
	}
	return f.ReaderAt.ReadAt(p, off)
}

func TestCompressionRatioIsBounded(t *testing.T) {
	o := &frame.Options{Compressor: frame.NewCompressor(), Compress: true}
	zeros := make([]byte, 1<<20) // four chunks of a few bytes, if it were up to zstd
	b := encode(t, zeros, o)
	require.Greater(t, len(b)*512, len(zeros))
	got, err := decode(t, b, o)
	require.NoError(t, err)
	require.True(t, bytes.Equal(zeros, got))
}

func FuzzFrame(f *testing.F) {
	for _, o := range kinds {
		f.Add(encode(f, code(50), o))
		f.Add(encode(f, code(2*chunkSize), o))
	}
	want := map[string]bool{string(code(50)): true, string(code(2 * chunkSize)): true}
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, o := range kinds {
			got, err := decode(t, b, o)
			switch {
			case err != nil:
				require.True(t, errors.Is(err, frame.ErrCorrupt) || errors.Is(err, frame.ErrAuth) || errors.Is(err, frame.ErrTooLarge), "%v", err)
			case name == "keyed" || name == "ed25519":
				require.True(t, want[string(got)], "forged")
			default:
				// A digest can be recomputed: what it covers may be anything, but bounded.
				require.LessOrEqual(t, len(got), 512*len(b))
			}
		}
	})
}

// TestAuthHidesSecrets prints it in fields that aren't exported, whose methods package fmt doesn't call.
func TestAuthHidesSecrets(t *testing.T) {
	secret := []byte("a secret of sixteen bytes or more")
	var derived [32]byte
	blake3.DeriveKey("modcache 2026-11-20 frame header MAC key", secret, derived[:])
	seed := bytes.Repeat([]byte{201, 202, 203}, 11)[:32]
	for _, a := range []frame.Auth{frame.NewKeyed(secret), frame.NewSigner(ed25519.NewKeyFromSeed(seed))} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%x"} {
			text := fmt.Sprintf(verb, &struct {
				a frame.Auth
				o frame.Options
			}{a, frame.Options{Auth: a}})
			for _, b := range [][]byte{derived[:6], seed[:6]} {
				require.NotContains(t, text, strings.Trim(fmt.Sprint(b), "[]"))
				require.NotContains(t, text, fmt.Sprintf("%x", b))
				require.NotContains(t, text, strings.Trim(strings.TrimPrefix(fmt.Sprintf("%#v", b), "[]byte"), "{}"))
			}
		}
	}
}

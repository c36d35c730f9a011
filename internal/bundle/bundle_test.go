package bundle_test

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/bundle"
	"github.com/modcache/modcache/internal/bundle/pack"
	"github.com/modcache/modcache/internal/frame"
)

const (
	block   = 512
	trailer = 2 * block
)

// indexLen returns how long the index of so many entries is.
func indexLen(entries int) int { return len(bundle.AppendIndex(nil, make([]bundle.Span, entries))) }

func key(n int) (k [32]byte) {
	binary.BigEndian.PutUint64(k[:], uint64(n))
	return k
}

func entry(n int) []byte { return bytes.Repeat([]byte{byte(n)}, 10+n*7%3000) }

// write returns a bundle of so many entries.
func write(t testing.TB, entries int) []byte {
	var buf bytes.Buffer
	w, err := pack.NewWriter(&buf)
	require.NoError(t, err)
	for i := range entries {
		require.NoError(t, w.Add(key(i), time.Unix(1e9, 5), entry(i)))
	}
	require.Equal(t, entries, w.Entries())
	require.NoError(t, w.Close())
	return buf.Bytes()
}

// withoutIndex is what earlier versions wrote.
func withoutIndex(b []byte, entries int) []byte {
	end := len(b) - trailer - indexLen(entries) - block
	return append(bytes.Clone(b[:end]), make([]byte, trailer)...)
}

func read(b []byte) ([]bundle.Span, error) {
	return bundle.ReadIndex(bytes.NewReader(b), int64(len(b)))
}

func TestBundleFindsEntries(t *testing.T) {
	for _, n := range []int{0, 1, 2, 9, 10, 11, 300, 3000} {
		b := write(t, n)
		require.Equal(t, b, write(t, n), "the same entries make the same bundle")
		for name, b := range map[string][]byte{"index": b, "older": withoutIndex(b, n)} {
			spans, err := read(b)
			require.NoError(t, err, name)
			require.Len(t, spans, n)
			for i, s := range spans {
				require.Equal(t, key(i), s.Key)
				require.Equal(t, entry(i), b[s.Off:][:s.Len])
			}
		}
	}
}

// Other tools read it, and see no member but ours.
func TestBundleIsTar(t *testing.T) {
	tr := tar.NewReader(bytes.NewReader(write(t, 2)))
	var names []string
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		names = append(names, strings.TrimLeft(h.Name, "0"))
	}
	require.Equal(t, []string{bundle.Start, ".v1", "1" + strings.Repeat("0", 48) + ".v1", bundle.End, bundle.Index}, names)
}

func TestBundleWriterRefusesDisorder(t *testing.T) {
	for _, second := range []int{1, 0} {
		w, err := pack.NewWriter(io.Discard)
		require.NoError(t, err)
		require.NoError(t, w.Add(key(1), time.Time{}, entry(1)))
		require.NoError(t, w.Add(key(second), time.Time{}, entry(1)))
		require.ErrorContains(t, w.Close(), "out of order")
	}
}

func TestBundleCutsAreErrors(t *testing.T) {
	for _, b := range [][]byte{write(t, 20), withoutIndex(write(t, 20), 20)} {
		for n := 0; n < len(b)-trailer; n += 97 {
			spans, err := read(b[:n])
			if err == nil { // all but the index is there: it is read as an older one
				require.Len(t, spans, 20)
				continue
			}
			require.True(t, errors.Is(err, frame.ErrCorrupt) || errors.Is(err, bundle.ErrNoBundle), "%d bytes: %v", n, err)
		}
	}
	_, err := bundle.ReadIndex(bytes.NewReader(write(t, 3)), 1<<50)
	require.ErrorIs(t, err, frame.ErrCorrupt, "shorter than it says")
}

// bomb claims to be huge, and costs nothing.
type bomb struct {
	size   int64
	footer []byte
}

func (b bomb) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if at := b.size - trailer - 32 - off; at >= 0 && at+32 <= int64(len(p)) {
		copy(p[at:], b.footer)
	}
	return len(p), nil
}

func TestBundleIndexIsBounded(t *testing.T) {
	le := binary.LittleEndian
	for _, entries := range []uint64{bundle.MaxEntries + 1, 1 << 40, 1<<64 - 1, 1 << 63} {
		f := append(le.AppendUint64([]byte("mcindex1"), entries), make([]byte, 16)...)
		_, err := bundle.ReadIndex(bomb{1 << 60, f}, 1<<60)
		require.ErrorIs(t, err, frame.ErrCorrupt)
		require.ErrorContains(t, err, "an index of")
	}
	f := append(le.AppendUint64([]byte("mcindex1"), 1000), make([]byte, 16)...)
	_, err := bundle.ReadIndex(bomb{1 << 14, f}, 1<<14)
	require.ErrorContains(t, err, "an index of 1000", "more than the file has room for")
}

func TestBundleHostileIndex(t *testing.T) {
	for what, change := range map[string]func([]bundle.Span, int64){
		"overlap":                func(s []bundle.Span, _ int64) { s[1].Off = s[0].Off + 1 },
		"same place":             func(s []bundle.Span, _ int64) { s[1].Off, s[1].Len = s[0].Off, s[0].Len },
		"same key":               func(s []bundle.Span, _ int64) { s[1].Key = s[0].Key },
		"keys descend":           func(s []bundle.Span, _ int64) { s[0].Key, s[1].Key = s[1].Key, s[0].Key },
		"negative offset":        func(s []bundle.Span, _ int64) { s[0].Off = -1 },
		"negative length":        func(s []bundle.Span, _ int64) { s[0].Len = -1 },
		"sum overflows":          func(s []bundle.Span, _ int64) { s[2].Len = 1<<63 - 1 },
		"offset beyond the end":  func(s []bundle.Span, end int64) { s[2].Off = end + 1<<40 },
		"reaches into the index": func(s []bundle.Span, end int64) { s[2].Len = end - s[2].Off + 1 },
	} {
		b := write(t, 3)
		spans, err := read(b)
		require.NoError(t, err)
		end := int64(len(b) - trailer - indexLen(3))
		change(spans, end)
		forged := slices.Concat(b[:end], bundle.AppendIndex(nil, spans), make([]byte, trailer))
		_, err = read(forged)
		require.ErrorIs(t, err, frame.ErrCorrupt, what)
	}
}

func TestBundleDamagedIndexIsAnError(t *testing.T) {
	b := write(t, 12)
	at := len(b) - trailer - indexLen(12)
	for i := at; i < len(b)-trailer; i += 7 {
		damaged := bytes.Clone(b)
		damaged[i] ^= 1
		spans, err := read(damaged)
		if err == nil { // in the magic: the bundle is then read as an older one
			require.Len(t, spans, 12)
			continue
		}
		require.ErrorIs(t, err, frame.ErrCorrupt)
	}
}

func TestBundleHostileTar(t *testing.T) {
	make := func(members ...tar.Header) []byte {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for _, h := range members {
			h.Size, h.Mode = 18, 0o600
			if h.Typeflag == tar.TypeSymlink {
				h.Size, h.Linkname = 0, "/etc/passwd"
			}
			require.NoError(t, w.WriteHeader(&h))
			if h.Size > 0 {
				text := bundle.StartText
				if h.Name == bundle.End {
					text = fmt.Sprintf("%-18s", "999 entries")
				}
				_, err := io.WriteString(w, text)
				require.NoError(t, err)
			}
		}
		require.NoError(t, w.Close())
		return buf.Bytes()
	}
	start := tar.Header{Name: bundle.Start}
	name := fmt.Sprintf("%x.v1", key(1))
	for what, c := range map[string]struct {
		b    []byte
		want string
	}{
		"nothing":       {nil, "not a bundle"},
		"another tar":   {make(tar.Header{Name: "x"}), "not a bundle"},
		"no end":        {make(start), "ends early"},
		"wrong number":  {make(start, tar.Header{Name: bundle.End}), "has 0 entries, and names another"},
		"another name":  {make(start, tar.Header{Name: "../x"}), "is no entry"},
		"in a shard":    {make(start, tar.Header{Name: "0/" + name}), "is no entry"},
		"later version": {make(start, tar.Header{Name: fmt.Sprintf("%x.v2", key(1))}), "is no entry"},
		"a link":        {make(start, tar.Header{Name: name, Typeflag: tar.TypeSymlink}), "is no entry"},
	} {
		_, err := read(c.b)
		require.ErrorContains(t, err, c.want, what)
	}
}

// FuzzIndex makes sure that whatever a bundle says, what is believed lies in it.
func FuzzIndex(f *testing.F) {
	for _, n := range []int{0, 1, 11} {
		b := write(f, n)
		f.Add(b)
		f.Add(withoutIndex(b, n))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		spans, err := read(b)
		if err != nil {
			return
		}
		at := int64(0)
		for _, s := range spans {
			if s.Off < at || s.Len < 0 || s.Off+s.Len > int64(len(b)) {
				t.Fatalf("%+v in %d bytes", s, len(b))
			}
			at = s.Off + s.Len
		}
	})
}

func BenchmarkReadIndex(b *testing.B) {
	data := write(b, 1000)
	for b.Loop() {
		if _, err := read(data); err != nil {
			b.Fatal(err)
		}
	}
}

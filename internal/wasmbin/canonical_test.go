package wasmbin

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache/internal/wasmtest"
)

// Valid modules stay valid and look the same, invalid ones stay invalid, the
// canonical encoding of a canonical encoding is itself.
func TestCanonicalCorpus(t *testing.T) {
	for _, features := range []api.CoreFeatures{allFeatures, api.CoreFeaturesV2, api.CoreFeaturesV1} {
		r := decoder(t, features)
		var valid, invalid, unknown int
		sample := wholeCorpus(t)
		if features != allFeatures {
			sample = sampledCorpus(t, 8)
		}
		for _, m := range sample {
			c, cerr := compile(r, m.wasm)
			canonical, err := Canonical(m.wasm)
			if err != nil {
				if cerr == nil {
					unknown++
					t.Logf("%s: %v", m.name, err)
				}
				continue
			}
			require.Equal(t, len(canonical), cap(canonical), m.name)
			again, err := Canonical(canonical)
			require.NoError(t, err, m.name)
			require.Equal(t, canonical, again, m.name)
			var streamed bytes.Buffer
			require.NoError(t, WriteCanonical(&streamed, m.wasm))
			require.Equal(t, canonical, streamed.Bytes(), m.name)

			k, kerr := compile(r, canonical)
			if cerr != nil {
				invalid++
				require.Error(t, kerr, "%s was refused: %v", m.name, cerr)
				continue
			}
			valid++
			require.NoError(t, kerr, m.name)
			require.Equal(t, describe(c, false), describe(k, false), m.name)
			c.Close(context.Background())
			k.Close(context.Background())
		}
		t.Logf("%v: %d valid modules, %d invalid ones; %d valid ones are not canonicalisable", features, valid, invalid, unknown)
		require.LessOrEqual(t, unknown, 1)
	}
}

func TestSameCode(t *testing.T) {
	wasm := wasmtest.Sum(3, 5)
	other := bytes.Clone(wasm)
	other[len(other)-2] ^= 1 // in the last body
	noted := append(wasmtest.CustomSection("note", []byte("x")), wasmtest.CustomSection("note", nil)...)
	for name, c := range map[string]struct {
		a, b []byte
		want bool
	}{
		"the same":         {wasm, wasm, true},
		"other notes":      {wasm, append(bytes.Clone(wasm), noted...), true},
		"another body":     {wasm, other, false},
		"other data":       {append(bytes.Clone(wasm), "\x0b\x01\x00"...), wasm, false},
		"no code":          {wasm, wasm[:8], false},
		"malformed":        {wasm, wasm[:len(wasm)-1], false},
		"malformed before": {nil, wasm, false},
	} {
		require.Equal(t, c.want, SameCode(c.a, c.b), name)
	}
}

func stripped(t testing.TB, wasm []byte) []byte {
	o, err := Scan(wasm)
	require.NoError(t, err)
	b := []byte(header)
	for _, s := range o.Sections {
		if s.ID != custom {
			b = append(b, wasm[s.Start:s.End]...)
		}
	}
	return b
}

const (
	noType   = "\x01\x04\x01\x60\x00\x00"
	oneFunc  = "\x03\x02\x01\x00"
	nameless = "\x00\x05\x04name"
)

// withBody is a module with one function of type [] -> [] and a memory.
func withBody(body string) []byte {
	content := append(uleb([]byte{1}, uint64(len(body))), body...)
	codes := append(uleb([]byte{code}, uint64(len(content))), content...)
	return module(noType, oneFunc, "\x05\x03\x01\x00\x01", string(codes))
}

func TestCanonicalBodies(t *testing.T) {
	for name, c := range map[string]struct{ body, want string }{
		"as short as can be":    {"\x00\x41\x2a\x1a\x0b", ""},
		"u32":                   {"\x00\x0c\x80\x80\x80\x80\x00\x0b", "\x00\x0c\x00\x0b"},
		"two bytes are needed":  {"\x00\x41\xc0\x00\x1a\x0b", ""},
		"i32 positive":          {"\x00\x41\xc0\x80\x80\x80\x00\x1a\x0b", "\x00\x41\xc0\x00\x1a\x0b"},
		"i32 negative":          {"\x00\x41\xff\xff\xff\xff\x7f\x1a\x0b", "\x00\x41\x7f\x1a\x0b"},
		"i32 smallest":          {"\x00\x41\x80\x80\x80\x80\x78\x1a\x0b", ""},
		"i64 negative":          {"\x00\x42\xbf\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x1a\x0b", "\x00\x42\xbf\x7f\x1a\x0b"},
		"i64 smallest":          {"\x00\x42\x80\x80\x80\x80\x80\x80\x80\x80\x80\x7f\x1a\x0b", ""},
		"offset":                {"\x00\x41\x00\x28\x82\x00\x84\x80\x00\x1a\x0b", "\x00\x41\x00\x28\x02\x04\x1a\x0b"},
		"block type":            {"\x00\x02\x80\x80\x00\x0b\x0b", "\x00\x02\x00\x0b\x0b"},
		"br_table":              {"\x00\x41\x00\x0e\x81\x00\x80\x00\x80\x00\x0b", "\x00\x41\x00\x0e\x01\x00\x00\x0b"},
		"locals of one type":    {"\x02\x01\x7f\x02\x7f\x0b", "\x01\x03\x7f\x0b"},
		"locals in between":     {"\x03\x01\x7f\x00\x7e\x02\x7f\x0b", "\x01\x03\x7f\x0b"},
		"no locals in the end":  {"\x02\x01\x7f\x00\x7e\x0b", "\x01\x01\x7f\x0b"},
		"no locals at all":      {"\x02\x00\x7f\x00\x7e\x0b", "\x00\x0b"},
		"locals of two types":   {"\x02\x01\x7f\x02\x7e\x0b", ""},
		"nullable isn't non":    {"\x02\x01\x63\x00\x01\x64\x00\x0b", ""},
		"locals of a reference": {"\x02\x01\x63\x80\x00\x01\x63\x00\x0b", "\x01\x02\x63\x00\x0b"},
		"vector opcode":         {"\x00\xfd\x0c0123456789abcdef\xfd\x83\x01\x1a\x0b", ""},
		"vector offset":         {"\x00\x41\x00\xfd\x00\x84\x00\x80\x00\x1a\x0b", "\x00\x41\x00\xfd\x00\x04\x00\x1a\x0b"},
		"saturating":            {"\x00\x43\x00\x00\x00\x00\xfc\x00\x1a\x0b", ""},
		"fence":                 {"\x00\xfe\x03\x00\x0b", ""},
	} {
		if c.want == "" {
			c.want = c.body
		}
		got, err := Canonical(withBody(c.body))
		require.NoError(t, err, name)
		require.Equal(t, withBody(c.want), got, name)
	}
}

// Spellings that wazero reads in another way than a reader by the book, or than
// it writes them, and what would become valid by shortening.
func TestCanonicalRefusesBodies(t *testing.T) {
	for name, body := range map[string]string{
		// wazero takes the byte behind such an opcode for an instruction of its own.
		"vector opcode, padded":            "\x00\x41\x00\xfd\x80\x00\x04\x00\x1a\x0b",
		"vector opcode, padded to three":   "\x00\xfd\x0c0123456789abcdef\xfd\x83\x81\x00\x1a\x0b",
		"vector opcode and a nop":          "\x00\xfd\x0c0123456789abcdef\xfd\x83\x1a\x0b",
		"relaxed vector opcode":            "\x00\xfd\x0c0123456789abcdef\xfd\x80\x02\x1a\x0b",
		"atomic opcode, padded":            "\x00\xfe\x83\x00\x00\x0b",
		"saturating opcode, padded":        "\x00\x43\x00\x00\x00\x00\xfc\x80\x00\x1a\x0b",
		"select of a spelt-out reference":  "\x00\x41\x00\x41\x00\x41\x00\x1c\x01\x63\x00\x1a\x0b",
		"select of two types":              "\x00\x41\x00\x41\x00\x41\x00\x1c\x02\x7f\x7f\x1a\x0b",
		"select, count padded":             "\x00\x41\x00\x41\x00\x41\x00\x1c\x81\x00\x7f\x1a\x0b",
		"ref.null of a negative index":     "\x00\xd0\xf0\x7f\x1a\x0b",
		"ref.null of a low index":          "\x00\xd0\x40\x1a\x0b",
		"block type of two bytes":          "\x00\x02\xff\x7f\x41\x00\x0b\x1a\x0b",
		"block type unknown":               "\x00\x02\x6a\x0b\x0b",
		"memory.size, padded":              "\x00\x3f\x80\x00\x1a\x0b",
		"memory.size of another":           "\x00\x3f\x01\x1a\x0b",
		"fence with an order":              "\x00\xfe\x03\x01\x0b",
		"integer of six bytes":             "\x00\x0c\x80\x80\x80\x80\x80\x00\x0b",
		"unsigned with unused bits":        "\x00\x0c\x80\x80\x80\x80\x10\x0b",
		"signed, bits disagree":            "\x00\x41\xff\xff\xff\xff\x4f\x1a\x0b",
		"signed, only the top bit differs": "\x00\x41\xff\xff\xff\xff\x3f\x1a\x0b",
		"signed of 64 bits disagree":       "\x00\x42\xff\xff\xff\xff\xff\xff\xff\xff\xff\x3f\x1a\x0b",
		"index of 33 bits, unused bits":    "\x00\x02\x80\x80\x80\x80\x40\x0b\x0b",
		"unknown opcode":                   "\x00\x27\x0b",
		"legacy exceptions":                "\x00\x06\x40\x19\x0b\x0b",
		"local of unknown type":            "\x01\x01\x60\x0b",
		"no locals of unknown type":        "\x01\x00\x60\x0b",
		"too many locals":                  "\x02\xff\xff\xff\xff\x0f\x7f\x01\x7e\x0b",
		"the last byte isn't an end":       "\x00\x41\x0b",
		"would end if it were shorter":     "\x00\x41\x8b\x00",
		"nothing behind the end":           "\x00\x0b\x0b",
		"block without end":                "\x00\x02\x40\x0b",
		"cut off":                          "\x00\x43\x00\x0b",
		"empty":                            "",
	} {
		_, err := Canonical(withBody(body))
		require.Error(t, err, name)
	}
}

func TestCanonicalSections(t *testing.T) {
	const debug, note, last = "\x00\x0c\x0b.debug_info", "\x00\x06\x04noteX", "\x00\x05\x04note"
	const body = "\x0a\x04\x01\x02\x00\x0b"
	plain := module(noType, oneFunc, body)
	for name, c := range map[string]struct {
		wasm, want []byte
	}{
		"nothing to do":           {plain, plain},
		"custom sections":         {module(note, noType, debug, oneFunc, nameless, body, note), plain},
		"section size padded":     {module(noType, "\x03\x82\x80\x00\x01\x00", body), plain},
		"body size padded":        {module(noType, oneFunc, "\x0a\x05\x01\x82\x00\x00\x0b"), plain},
		"empty sections":          {module("\x01\x01\x00", "\x02\x02\x80\x00", "\x04\x01\x00", "\x0b\x01\x00"), module()},
		"empty code stays":        {module("\x0a\x01\x00"), module("\x0a\x01\x00")},
		"empty tags stay":         {module("\x0d\x01\x00"), module("\x0d\x01\x00")},
		"a data count stays":      {module("\x0c\x01\x00", "\x0b\x01\x00"), module("\x0c\x01\x00")},
		"no data count is added":  {module("\x05\x03\x01\x00\x00", "\x0b\x06\x01\x00\x41\x00\x0b\x00"), module("\x05\x03\x01\x00\x00", "\x0b\x06\x01\x00\x41\x00\x0b\x00")},
		"module name":             {module("\x00\x08\x04name\x00\x01\x00"), module()},
		"names of functions":      {module("\x00\x0c\x04name\x01\x05\x01\x00\x02hi"), module()},
		"names of locals":         {module("\x00\x0e\x04name\x02\x07\x01\x00\x01\x00\x02hi"), module()},
		"names of something else": {module("\x00\x09\x04name\x09\x02\xff\xff"), module()},
	} {
		got, err := Canonical(c.wasm)
		require.NoError(t, err, name)
		require.Equal(t, c.want, got, name)
	}
	for name, c := range map[string]struct {
		wasm []byte
	}{
		"unknown section":             {module(noType, "\x0e\x00")},
		"content too long":            {module("\x01\x05\x01\x60\x00\x00\x00")},
		"content too short":           {module("\x01\x03\x01\x60\x00")},
		"order":                       {module(oneFunc, noType)},
		"functions without bodies":    {module(noType, oneFunc)},
		"bodies without functions":    {module(noType, body)},
		"huge count":                  {module(noType, oneFunc, "\x0a\x08\xff\xff\xff\xff\x0f\x02\x00\x0b")},
		"two name sections":           {module(nameless, nameless, noType)},
		"name isn't UTF-8":            {module("\x00\x09\x04name\x00\x02\x01\xff", noType)},
		"names beyond their section":  {module("\x00\x0c\x04name\x01\x05\x02\x00\x02hi", noType)},
		"names too short":             {module("\x00\x0d\x04name\x01\x06\x01\x00\x02hi\x00", noType)},
		"import name isn't UTF-8":     {module(noType, "\x02\x06\x01\x01\xff\x00\x00\x00")},
		"empty custom section at end": {module(noType, last)},
		"type of a table":             {module("\x04\x04\x01\x7f\x00\x00")},
		"64-bit memory":               {module("\x05\x03\x01\x04\x01")},
		"truncated data count at end": {module("\x0c\x01\x80")},
		"sub types":                   {module("\x01\x06\x01\x50\x00\x60\x00\x00")},
	} {
		_, err := Canonical(c.wasm)
		require.Error(t, err, name)
		require.Error(t, WriteCanonical(&bytes.Buffer{}, c.wasm), name)
	}
}

// Each kind of element segment, with one entry each.
func TestCanonicalElements(t *testing.T) {
	for flags, rest := range []string{
		"\x41\x00\x0b\x01\x00", "\x00\x01\x00", "\x00\x41\x00\x0b\x00\x01\x00", "\x00\x01\x00",
		"\x41\x00\x0b\x01\xd2\x00\x0b", "\x70\x01\xd2\x00\x0b", "\x00\x41\x00\x0b\x70\x01\xd0\x70\x0b", "\x63\x00\x01\xd0\x00\x0b",
	} {
		segment := string(rune(flags)) + rest
		wasm := module("\x04\x04\x01\x70\x00\x01", "\x09"+string(rune(len(segment)+1))+"\x01"+segment)
		got, err := Canonical(wasm)
		require.NoError(t, err, flags)
		require.Equal(t, wasm, got, flags)
		for seed := range uint64(20) {
			got, err := Canonical(mangle(wasm, seed))
			require.NoError(t, err, flags)
			require.Equal(t, wasm, got, flags)
		}
	}
}

// A body that is invalid in one spelling is invalid in all.
func TestInvalidStaysInvalid(t *testing.T) {
	r := decoder(t, allFeatures)
	for _, body := range []string{
		"\x00\x41\x80\x00\x0b",                                 // a value left over
		"\x00\x20\x80\x00\x1a\x0b",                             // no such local
		"\x00\x41\x00\x28\x83\x00\x00\x1a\x0b",                 // too large an alignment
		"\x02\x00\x7f\x00\x7e\x20\x00\x1a\x0b",                 // no such local once empty groups are gone
		"\x00\x41\x00\x41\x00\x41\x00\xfc\x08\x80\x00\x00\x0b", // memory.init without a data count
	} {
		wasm := withBody(body)
		canonical, err := Canonical(wasm)
		require.NoError(t, err)
		require.NotEqual(t, wasm, canonical)
		_, err = compile(r, wasm)
		require.Error(t, err)
		_, err = compile(r, canonical)
		require.Error(t, err)
	}
}

func TestScanSeesDebugInfo(t *testing.T) {
	o, err := Scan(module(noType, "\x00\x0c\x0b.debug_line"))
	require.NoError(t, err)
	require.True(t, o.HasDebug)
	o, err = Scan(module(noType, "\x00\x0b\x0adebug_line"))
	require.NoError(t, err)
	require.False(t, o.HasDebug)
}

// failingWriter takes some bytes and then no more.
type failingWriter struct{ left int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if len(p) > w.left {
		return 0, errFull
	}
	w.left -= len(p)
	return len(p), nil
}

var errFull = errors.New("full")

func TestWriteErrors(t *testing.T) {
	wasm := realModules(t)[0].wasm
	for _, n := range []int{0, 1, 8, 100, sinkSize, 2*sinkSize + 1} {
		require.ErrorIs(t, WriteCanonical(&failingWriter{n}, wasm), errFull, n)
		require.ErrorIs(t, WriteCanonical(&failingWriter{n}, mangle(wasm, 1)), errFull, n)
	}
}

// inflated reports whether a module announces much more than it contains, for
// which wazero may take all the memory there is.
func inflated(wasm []byte) bool {
	sc, err := newScanner(wasm)
	if err != nil {
		return true
	}
	for sc.next() {
		s := sc.section
		r := newReader(wasm, s.Data, s.End)
		if s.ID == custom {
			if string(s.Name) == "name" && checkNames(wasm, s) != nil {
				return true
			}
			continue
		}
		if s.ID != code {
			e := newEditor(wasm, s.Body, s.End)
			// wazero doesn't stop at the end of a section, but counts afterwards.
			err := e.section(s.ID)
			if err != nil && (strings.Contains(err.Error(), "announced") || strings.Contains(err.Error(), "unexpected end")) {
				return true
			}
			continue
		}
		if n := r.u32(); r.err != nil || int(n) > len(wasm) {
			return true
		}
		for !r.done() {
			size := r.u32()
			body := r
			if r.skip(size); r.err != nil {
				return true
			}
			n := body.u32()
			total := uint64(0)
			for range n {
				k := body.u32()
				if total += uint64(k); body.err != nil || total > 1e5 {
					return body.err == nil
				}
				if body.valueType(); body.err != nil {
					break
				}
			}
		}
	}
	return sc.err != nil
}

// FuzzCanonical looks for modules that wazero sees in another way once they are
// canonical, and for encodings that aren't stable.
func FuzzCanonical(f *testing.F) {
	for i, m := range wholeCorpus(f) {
		if i%40 == 0 && len(m.wasm) < 1000 {
			f.Add(m.wasm)
		}
	}
	r := decoder(f, allFeatures)
	f.Fuzz(func(t *testing.T, wasm []byte) {
		canonical, err := Canonical(wasm)
		if err != nil {
			return
		}
		again, err := Canonical(canonical)
		require.NoError(t, err)
		require.Equal(t, canonical, again)
		var streamed bytes.Buffer
		require.NoError(t, WriteCanonical(&streamed, wasm))
		require.Equal(t, canonical, streamed.Bytes())
		if inflated(wasm) {
			return
		}
		c, cerr := compile(r, wasm)
		k, kerr := compile(r, canonical)
		require.Equal(t, cerr == nil, kerr == nil, "%v\n%v", cerr, kerr)
		if cerr == nil {
			require.Equal(t, describe(c, false), describe(k, false))
			mangled, err := Canonical(mangle(wasm, uint64(len(wasm))))
			require.NoError(t, err)
			require.Equal(t, canonical, mangled)
		}
	})
}

// What is allocated doesn't grow with the number of functions, nor of custom sections.
func TestAllocations(t *testing.T) {
	wasm := realModules(t)[0].wasm
	padded := mangle(wasm, 1)
	sections := append(slices.Clone(wasm), bytes.Repeat([]byte("\x00\x03\x01x."), 100_000)...)
	tag := make([]byte, 64)
	for name, c := range map[string]struct {
		most float64
		f    func()
	}{
		"scan":             {2, func() { Scan(wasm) }},
		"stub":             {3, func() { Stub(wasm, tag) }}, // its data is copied
		"canonical":        {30, func() { WriteCanonical(io.Discard, wasm) }},
		"scan sections":    {2, func() { Scan(sections) }},
		"stub of sections": {3, func() { Stub(sections, tag) }},
		"count sections":   {100, func() { CheckCounts(sections, nil) }},
		"canonical padded": {60, func() { WriteCanonical(io.Discard, padded) }},
	} {
		require.LessOrEqual(t, testing.AllocsPerRun(5, c.f), c.most, name)
	}
}

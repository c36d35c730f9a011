package wazerohook

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache/internal/wasmtest"
)

// entryOf returns what wazero stores for a module.
func entryOf(t testing.TB, wasm []byte) []byte {
	t.Helper()
	seen := &files{}
	require.NoError(t, compileOver(t, bg, wazero.NewRuntimeConfig(), seen, wasm))
	_, b := seen.only(t)
	return b
}

func read(b []byte, version string, functions int) (*Entry, error) {
	return ReadEntry(bytes.NewReader(b), int64(len(b)), version, functions)
}

// hasCatchTables reports whether this wazero ends its entries with them. The canary's is empty.
func hasCatchTables(w *Wazero) bool {
	e, err := read(w.CanaryEntry, w.Version, 1)
	return err == nil && len(e.tail) > 4+1
}

func TestReadEntryOfWazero(t *testing.T) {
	w := probed(t)
	for n, wasm := range map[int][]byte{0: []byte("\x00asm\x01\x00\x00\x00"), 1: canary, 7: wasmtest.Sum(7, 0), 500: wasmtest.Sum(500, 0)} {
		b := entryOf(t, wasm)
		e, err := read(b, w.Version, n)
		require.NoError(t, err)
		require.NoError(t, e.CheckCode())
		require.EqualValues(t, len(b)-len(e.head)-len(e.tail), e.CodeLen())
		_, err = read(b, w.Version, AnyFunctions)
		require.NoError(t, err)
		_, err = read(b, w.Version, n+1)
		require.ErrorIs(t, err, ErrEntry)
	}
}

// TestEntryReads reads as wazero does: bare Reads, each of which must fill its
// destination, however the parts of the entry are cut.
func TestEntryReads(t *testing.T) {
	w := probed(t)
	b := entryOf(t, wasmtest.Sum(100, 0))
	for _, step := range []int{1, 4, 7, 8, 100, len(b) - 1, len(b), len(b) + 1} {
		e, err := read(b, w.Version, 100)
		require.NoError(t, err)
		r := e.Open(func(err error) { t.Error(err) })
		var got []byte
		for {
			p := make([]byte, step)
			n, err := r.Read(p)
			got = append(got, p[:n]...)
			if err != nil {
				require.Zero(t, n)
				require.Equal(t, io.EOF, err)
				break
			}
			require.True(t, n == step || len(got) == len(b), "%d of %d bytes at %d", n, step, len(got))
		}
		require.Equal(t, b, got)
		n, err := r.Read(nil)
		require.Zero(t, n)
		require.NoError(t, err)
		require.NoError(t, r.Close())
	}
}

// flawed fails, panics or cuts short the reads from a certain offset on.
type flawed struct {
	io.ReaderAt
	from int64
	n    func(n int) int
	err  error
}

func (f flawed) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.ReaderAt.ReadAt(p, off)
	if off+int64(n) <= f.from {
		return n, err
	}
	return f.n(n), f.err
}

func TestEntryReadErrors(t *testing.T) {
	w := probed(t)
	b := entryOf(t, wasmtest.Sum(100, 0))
	whole, err := read(b, w.Version, 100)
	require.NoError(t, err)
	failed := errors.New("failed")
	for _, from := range []int{0, 5, len(whole.head) - 1, len(b) - 1, len(b) - len(whole.tail)} {
		for _, f := range []flawed{
			{err: failed, n: func(int) int { return 0 }},
			{err: failed, n: func(n int) int { return n - 1 }},
			{err: nil, n: func(n int) int { return n - 1 }},
			{err: io.EOF, n: func(n int) int { return n - 1 }},
			{err: nil, n: func(n int) int { return 0 }},
		} {
			f.ReaderAt, f.from = bytes.NewReader(b), int64(from)
			_, err := ReadEntry(f, int64(len(b)), w.Version, 100)
			require.Error(t, err)
			require.NotErrorIs(t, err, ErrEntry, "an entry that can't be read isn't a wrong one")
			if f.err == failed {
				require.ErrorIs(t, err, failed)
			}
		}
	}
	// The code is read later, by wazero.
	for _, f := range []flawed{
		{err: failed, n: func(int) int { return 0 }},
		{err: failed, n: func(n int) int { return n - 1 }},
		{err: nil, n: func(n int) int { return n - 1 }},
		{err: io.EOF, n: func(n int) int { return n - 1 }},
	} {
		// The entry is read soundly, and its code is not.
		f.ReaderAt, f.from = bytes.NewReader(b), -1
		e := &Entry{src: f, head: whole.head, codeLen: whole.codeLen, tail: whole.tail}
		require.Error(t, e.CheckCode())
		var told error
		r := e.Open(func(err error) { told = err })
		n, err := r.Read(make([]byte, len(whole.head)))
		require.NoError(t, err)
		require.Equal(t, len(whole.head), n)
		n, err = r.Read(make([]byte, whole.codeLen))
		require.Zero(t, n)
		require.Error(t, err)
		require.NotErrorIs(t, err, io.EOF)
		require.Error(t, told)
		// Without anybody to tell.
		_, err = io.ReadAll(e.Open(nil))
		require.Error(t, err)
	}
}

// builder writes entries that wazero never would.
type builder struct {
	version   string
	functions uint32
	offsets   []uint64
	codeLen   *uint64
	code      []byte
	crc       *uint32
	flag      byte
	pairs     *uint64
	sourceMap [][2]uint64
	tables    *uint32
	clauses   *uint32
	catch     [][]byte // kinds of the clauses of each table
	old       bool     // has no such tables
	after     []byte
}

func (b builder) bytes() []byte {
	le := binary.LittleEndian
	out := append([]byte(entryMagic), byte(len(b.version)))
	out = append(out, b.version...)
	out = le.AppendUint32(out, b.functions)
	for _, o := range b.offsets {
		out = le.AppendUint64(out, o)
	}
	out = le.AppendUint64(out, or(b.codeLen, uint64(len(b.code))))
	out = append(out, b.code...)
	out = le.AppendUint32(out, or(b.crc, crc32.Checksum(b.code, crc32.MakeTable(crc32.Castagnoli))))
	out = append(out, b.flag)
	if b.flag == 1 {
		out = le.AppendUint64(out, or(b.pairs, uint64(len(b.sourceMap))))
		for _, p := range b.sourceMap {
			out = le.AppendUint64(out, p[0])
			out = le.AppendUint64(out, p[1])
		}
	}
	if !b.old {
		out = le.AppendUint32(out, or(b.tables, uint32(len(b.catch))))
		for _, kinds := range b.catch {
			out = le.AppendUint32(out, or(b.clauses, uint32(len(kinds))))
			for _, k := range kinds {
				out = append(out, k, 1, 0, 0, 0)
			}
		}
	}
	return append(out, b.after...)
}

func at[T any](v T) *T { return &v }

func or[T any](p *T, v T) T {
	if p != nil {
		return *p
	}
	return v
}

func TestReadEntryChecksEveryField(t *testing.T) {
	const version = "1.2"
	sound := func() builder {
		return builder{
			version: version, functions: 2, offsets: []uint64{0, 16}, code: make([]byte, 48),
			flag: 1, sourceMap: [][2]uint64{{9, 0}, {12, 0}, {3, 47}, {1 << 60, 48}}, catch: [][]byte{{0, 1}, {}, {2, 3}},
		}
	}
	for name, change := range map[string]func(b *builder){
		"as it is":                 func(b *builder) {},
		"no source map":            func(b *builder) { b.flag, b.sourceMap = 0, nil },
		"empty source map":         func(b *builder) { b.sourceMap = nil },
		"no catch tables":          func(b *builder) { b.catch = nil },
		"of an older wazero":       func(b *builder) { b.catch, b.old = nil, true },
		"code before the first":    func(b *builder) { b.offsets[0] = 8 },
		"last function at the end": func(b *builder) { b.offsets[1] = 47 },
		"no functions":             func(b *builder) { *b = builder{version: version} },
	} {
		b := sound()
		change(&b)
		raw := b.bytes()
		e, err := read(raw, version, AnyFunctions)
		require.NoError(t, err, name)
		require.NoError(t, e.CheckCode(), name)
		heap := 16 * len(b.sourceMap)
		for _, clauses := range b.catch {
			heap += 24 + 8*len(clauses)
		}
		require.EqualValues(t, heap, e.Heap(), name)
		for n := range raw {
			e, err := read(raw[:n], version, AnyFunctions)
			if err == nil && e.endsEarly() && !b.old {
				continue // that is what an older wazero writes
			}
			require.ErrorIs(t, err, ErrEntry, "%s, cut to %d of %d", name, n, len(raw))
		}
		got, err := io.ReadAll(e.Open(nil))
		require.NoError(t, err)
		require.Equal(t, raw, got)
	}
	const huge = 1<<64 - 1
	for name, change := range map[string]func(b *builder){
		"other version":               func(b *builder) { b.version = "1.3" },
		"longer version":              func(b *builder) { b.version = "1.2.1" },
		"shorter version":             func(b *builder) { b.version = "1" },
		"no version":                  func(b *builder) { b.version = "" },
		"more functions":              func(b *builder) { b.functions = 3 },
		"fewer functions":             func(b *builder) { b.functions = 1 },
		"as many functions as fit":    func(b *builder) { b.functions = 1<<32 - 1 },
		"functions without code":      func(b *builder) { b.code, b.flag = nil, 0 },
		"code without functions":      func(b *builder) { b.functions, b.offsets = 0, nil },
		"offset at the end":           func(b *builder) { b.offsets[1] = 48 },
		"offset far out":              func(b *builder) { b.offsets[1] = huge },
		"negative offset":             func(b *builder) { b.offsets[0] = 1 << 63 },
		"offsets swapped":             func(b *builder) { slices.Reverse(b.offsets) },
		"offsets equal":               func(b *builder) { b.offsets[1] = 0 },
		"longer code":                 func(b *builder) { b.codeLen = at(uint64(49)) },
		"huge code":                   func(b *builder) { b.codeLen = at(uint64(huge)) },
		"code as long as an int64":    func(b *builder) { b.codeLen = at(uint64(1<<63 - 1)) },
		"checksum of no code":         func(b *builder) { *b = builder{version: version, crc: at(uint32(1))} },
		"source map of no code":       func(b *builder) { *b = builder{version: version, flag: 1} },
		"source map flag":             func(b *builder) { b.flag = 2 },
		"more pairs":                  func(b *builder) { b.pairs = at(uint64(5)) },
		"huge source map":             func(b *builder) { b.pairs = at(uint64(huge)) },
		"source map past the end":     func(b *builder) { b.sourceMap[3][1] = 49 },
		"source map goes back":        func(b *builder) { b.sourceMap[2][1], b.sourceMap[1][1] = 1, 2 },
		"more catch tables":           func(b *builder) { b.tables = at(uint32(4)) },
		"fewer catch tables":          func(b *builder) { b.tables = at(uint32(2)) },
		"huge catch table":            func(b *builder) { b.tables = at(uint32(1<<32 - 1)) },
		"huge clauses":                func(b *builder) { b.clauses = at(uint32(1<<32 - 1)) },
		"unknown clause":              func(b *builder) { b.catch[2][1] = 4 },
		"something after it":          func(b *builder) { b.after = []byte{0} },
		"something long after it":     func(b *builder) { b.after = make([]byte, 1000) },
		"nothing but something after": func(b *builder) { *b = builder{version: version, after: []byte{0}} },
	} {
		b := sound()
		change(&b)
		_, err := read(b.bytes(), version, AnyFunctions)
		require.ErrorIs(t, err, ErrEntry, name)
	}
	b := sound()
	b.crc = at(uint32(7))
	e, err := read(b.bytes(), version, 2)
	require.NoError(t, err)
	require.ErrorIs(t, e.CheckCode(), ErrEntry)
}

// sparse is a huge source that has nothing in it but a header.
type sparse struct{ head []byte }

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off < int64(len(s.head)) {
		copy(p, s.head[off:])
	}
	return len(p), nil
}

// A length in an entry justifies an allocation only as far as the entry is long.
func TestReadEntryAllocatesNoMoreThanTheEntryJustifies(t *testing.T) {
	const version = "dev"
	for name, b := range map[string]builder{
		"functions": {version: "dev", functions: 1<<32 - 1},
		"code":      {version: "dev", functions: 1, offsets: []uint64{0}, codeLen: at(uint64(1 << 40))},
		"tables":    {version: "dev", functions: 1, offsets: []uint64{0}, code: []byte{1}, tables: at(uint32(1<<32 - 1))},
		"clauses":   {version: "dev", functions: 1, offsets: []uint64{0}, code: []byte{1}, catch: [][]byte{{1}}, clauses: at(uint32(1<<32 - 1))},
		"pairs":     {version: "dev", functions: 1, offsets: []uint64{0}, code: []byte{1}, flag: 1, pairs: at(uint64(1 << 60))},
	} {
		raw := b.bytes()
		var before, after = memory(), uint64(0)
		_, err := read(raw, version, AnyFunctions)
		after = memory()
		require.ErrorIs(t, err, ErrEntry, name)
		require.Less(t, after-before, uint64(64<<10), name)
	}
	// On a 32-bit platform, what a source says to be large can't be had at all.
	if ^uint(0)>>32 == 0 {
		head := builder{version: "dev", functions: 1<<32 - 1}.bytes()
		_, err := ReadEntry(sparse{head}, 1<<40, version, AnyFunctions)
		require.ErrorIs(t, err, ErrEntry)
	}
}

// TestEveryFlipOfAnEntry shows what these checks find by themselves, without the seal:
// all but offsets that stay in range and order, and what only traces show.
func TestEveryFlipOfAnEntry(t *testing.T) {
	w := probed(t)
	wasm := wasmtest.Sum(3, 0)
	b := entryOf(t, wasm)
	e, err := read(b, w.Version, 3)
	require.NoError(t, err)
	offsets := len(entryMagic) + 1 + len(w.Version) + 4
	unseen := 0
	for i := range 8 * len(b) {
		flipped := bytes.Clone(b)
		flipped[i/8] ^= 1 << (i % 8)
		e, err := read(flipped, w.Version, 3)
		if err == nil {
			err = e.CheckCode()
		}
		if err != nil {
			require.ErrorIs(t, err, ErrEntry)
			continue
		}
		unseen++
		require.True(t, i/8 >= offsets && i/8 < offsets+3*8, "a flip of bit %d in byte %d of %d went unseen", i%8, i/8, len(b))
	}
	t.Logf("%d of %d single-bit flips in an entry with %d bytes of code are offsets that only a seal can tell", unseen, 8*len(b), e.CodeLen())
	require.Positive(t, unseen, "or the seal would not be needed")
}

// Whatever is accepted, wazero must load without an error or a crash.
func FuzzReadEntry(f *testing.F) {
	w := probed(f)
	f.Add(entryOf(f, canary), true)
	f.Add(entryOf(f, wasmtest.Const(1000)), false)
	f.Add(entryOf(f, []byte("\x00asm\x01\x00\x00\x00")), true)
	f.Add(builder{version: w.Version, functions: 1, offsets: []uint64{3}, code: make([]byte, 8), flag: 1,
		sourceMap: [][2]uint64{{1, 2}}, catch: [][]byte{{0, 3}, {}}}.bytes(), true)
	f.Fuzz(func(t *testing.T, b []byte, any bool) {
		functions := 1
		if any {
			functions = AnyFunctions
		}
		before := memory()
		e, err := read(b, w.Version, functions)
		require.Less(t, memory()-before, uint64(2*len(b)+64<<10))
		if err != nil {
			require.ErrorIs(t, err, ErrEntry)
			return
		}
		require.Equal(t, int64(len(b)), int64(len(e.head))+e.codeLen+int64(len(e.tail)))
		got, err := io.ReadAll(e.Open(nil))
		require.NoError(t, err)
		require.Equal(t, b, got)
		if n := binary.LittleEndian.Uint32(b[len(entryMagic)+1+len(w.Version):]); n != 1 {
			require.NotEqual(t, 1, functions)
			return
		}
		if e.CheckCode() != nil {
			// Give it the checksum it should have, to look behind it.
			fixed := bytes.Clone(b)
			at := int64(len(e.head)) + e.codeLen
			sum := crc32.Checksum(fixed[len(e.head):at], crc32.MakeTable(crc32.Castagnoli))
			binary.LittleEndian.PutUint32(fixed[at:], sum)
			if e, err = read(fixed, w.Version, 1); err != nil {
				return
			}
			require.NoError(t, e.CheckCode())
		}
		if hasCatchTables(w) && e.endsEarly() {
			return // wazero takes it for an older one's
		}
		served := &serving{e: e}
		require.NoError(t, compileOver(t, bg, wazero.NewRuntimeConfig(), served, canary))
		require.Equal(t, 1, served.gets)
		require.Zero(t, served.others, "wazero took the entry for stale, or compiled all the same")
	})
}

// endsEarly reports that there is nothing behind the source map.
func (e *Entry) endsEarly() bool {
	n := 4 + 1
	if e.tail[4] == 1 {
		n += 8 + 16*int(binary.LittleEndian.Uint64(e.tail[5:]))
	}
	return len(e.tail) == n
}

// serving has one entry for everybody.
type serving struct {
	e            *Entry
	gets, others int
}

func (s *serving) Get(WazeroKey) (io.ReadCloser, bool, error) {
	s.gets++
	return s.e.Open(nil), true, nil
}
func (s *serving) Add(WazeroKey, io.Reader) error { s.others++; return nil }
func (s *serving) Delete(WazeroKey) error         { s.others++; return fmt.Errorf("stale") }

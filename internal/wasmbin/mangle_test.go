package wasmbin

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// mangler spells a valid module in another way: it pads integers, splits and
// scatters declarations of locals, adds, drops and moves custom sections and adds
// sections without entries.
type mangler struct {
	r    reader
	out  []byte
	rnd  *rand.Rand // nil pads as linkers do
	wide bool       // pad the next integer
}

// mangle returns another spelling of a module that is known to be valid.
func mangle(wasm []byte, seed uint64) []byte {
	rnd := rand.New(rand.NewPCG(seed, 1))
	out := []byte(header)
	sc, err := newScanner(wasm)
	check(err)
	present := map[byte]Section{}
	for sc.next() {
		present[sc.section.ID] = sc.section
	}
	check(sc.err)
	notes := 0
	for _, id := range []byte{types, imports, functions, tables, memories, tags, globals, exports, start, elements, dataCount, code, data} {
		for rnd.IntN(3) == 0 {
			notes++
			out = append(out, custom)
			note := append([]byte{4, 'n', 'o', 't', 'e'}, make([]byte, rnd.IntN(20))...)
			out = append(pad(out, uint64(len(note)), 32, rnd), note...)
		}
		s, ok := present[id]
		if !ok {
			if id != start && id != dataCount && id != code && id != tags && rnd.IntN(2) == 0 {
				out = append(out, id)
				empty := pad(nil, 0, 32, rnd)
				out = append(pad(out, uint64(len(empty)), 32, rnd), empty...)
			}
			continue
		}
		m := mangler{r: newReader(wasm, s.Body, s.End), rnd: rnd}
		m.section(id)
		out = append(out, id)
		out = append(pad(out, uint64(len(m.out)), 32, rnd), m.out...)
	}
	return append(out, "\x00\x03\x01x!"...)
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// relocatable returns a module with the padding that linkers leave: wide indices
// of functions and globals, wide addresses.
func relocatable(wasm []byte) []byte {
	sc, err := newScanner(wasm)
	check(err)
	out := []byte(header)
	for sc.next() {
		s := sc.section
		if s.ID != code {
			out = append(out, wasm[s.Start:s.End]...)
			continue
		}
		m := mangler{r: newReader(wasm, s.Body, s.End)}
		m.section(code)
		out = append(out, code)
		out = append(uleb(out, uint64(len(m.out))), m.out...)
	}
	check(sc.err)
	return out
}

// pad appends an unsigned integer in as many bytes as chance will have it.
func pad(dst []byte, v uint64, bits int, rnd *rand.Rand) []byte {
	start := len(dst)
	dst = uleb(dst, v)
	for rnd != nil && len(dst)-start < (bits+6)/7 && rnd.IntN(3) > 0 {
		dst[len(dst)-1] |= 0x80
		dst = append(dst, 0)
	}
	return dst
}

func padSigned(dst []byte, v int64, bits int, rnd *rand.Rand) []byte {
	start := len(dst)
	dst = sleb(dst, v)
	for rnd != nil && len(dst)-start < (bits+6)/7 && rnd.IntN(3) > 0 {
		dst[len(dst)-1] |= 0x80
		dst = append(dst, byte(v>>63)&0x7f)
	}
	return dst
}

func (m *mangler) byte() byte {
	c := m.r.byte()
	check(m.r.err)
	m.out = append(m.out, c)
	return c
}

func (m *mangler) bytes(n int) {
	for range n {
		m.byte()
	}
}

func (m *mangler) u() int {
	v := m.r.u32()
	check(m.r.err)
	if m.rnd == nil && (m.wide || v > 1024) {
		m.out = append(m.out, byte(v)|0x80, byte(v>>7)|0x80, byte(v>>14)|0x80, byte(v>>21)|0x80, byte(v>>28))
	} else {
		m.out = pad(m.out, uint64(v), 32, m.rnd)
	}
	return int(v)
}

func (m *mangler) s(bits uint) {
	v := m.r.signed(bits)
	check(m.r.err)
	if m.rnd == nil && bits == 32 && v > 1024 {
		m.out = append(m.out, byte(v)|0x80, byte(v>>7)|0x80, byte(v>>14)|0x80, byte(v>>21)|0x80, byte(v>>28))
	} else {
		m.out = padSigned(m.out, v, int(bits), m.rnd)
	}
}

func (m *mangler) vec(f func()) {
	for range m.u() {
		f()
	}
}

func (m *mangler) name()  { m.bytes(m.u()) }
func (m *mangler) index() { m.u() }

// heap keeps negative numbers, which are codes of one byte.
func (m *mangler) heap(bits uint) {
	if c := m.r.b[m.r.pos]; c >= 0x40 && c < 0x80 {
		m.byte()
		return
	}
	m.s(bits)
}

func (m *mangler) typ() {
	if c := m.byte(); c == refNull || c == ref {
		m.heap(33)
	}
}

func (m *mangler) limits() {
	flags := m.byte()
	m.u()
	if flags&1 != 0 {
		m.u()
	}
}

func (m *mangler) tableType() { m.typ(); m.limits() }

func (m *mangler) expr() {
	for {
		switch op := m.byte(); op {
		case opEnd:
			return
		case opI32Const:
			m.s(32)
		case opI64Const:
			m.s(64)
		case opF32Const:
			m.bytes(4)
		case opF64Const:
			m.bytes(8)
		case opGlobalGet, opRefFunc:
			m.u()
		case opRefNull:
			m.heap(33)
		case opVector:
			m.bytes(17)
		}
	}
}

func (m *mangler) section(id byte) {
	funcType := func() { m.vec(m.typ); m.vec(m.typ) }
	switch id {
	case types:
		m.vec(func() {
			if m.byte() == 0x4e {
				m.vec(func() { m.byte(); funcType() })
			} else {
				funcType()
			}
		})
	case imports:
		m.vec(func() {
			m.name()
			m.name()
			switch m.byte() {
			case kindFunc:
				m.u()
			case kindTable:
				m.tableType()
			case kindMemory:
				m.limits()
			case kindGlobal:
				m.typ()
				m.byte()
			case kindTag:
				m.byte()
				m.u()
			}
		})
	case functions:
		m.vec(m.index)
	case tables:
		m.vec(func() {
			if m.r.b[m.r.pos] == 0x40 {
				m.bytes(2)
				m.tableType()
				m.expr()
			} else {
				m.tableType()
			}
		})
	case memories:
		m.vec(m.limits)
	case tags:
		m.vec(func() { m.byte(); m.u() })
	case globals:
		m.vec(func() { m.typ(); m.byte(); m.expr() })
	case exports:
		m.vec(func() { m.name(); m.byte(); m.u() })
	case start, dataCount:
		m.u()
	case elements:
		m.vec(func() {
			flags := m.u()
			if flags&1 == 0 {
				if flags&2 != 0 {
					m.u()
				}
				m.expr()
			}
			switch {
			case flags&4 == 0 && flags != 0:
				m.byte()
			case flags > 4:
				m.typ()
			}
			if flags&4 != 0 {
				m.vec(m.expr)
			} else {
				m.vec(m.index)
			}
		})
	case data:
		m.vec(func() {
			flags := m.u()
			if flags == 2 {
				m.u()
			}
			if flags != 1 {
				m.expr()
			}
			m.name()
		})
	case code:
		m.vec(func() {
			size := m.r.u32()
			check(m.r.err)
			body := mangler{r: newReader(m.r.b, m.r.pos, m.r.pos+int(size)), rnd: m.rnd}
			m.r.pos = body.r.end
			body.locals()
			for !body.r.done() {
				body.instruction()
			}
			m.out = append(pad(m.out, uint64(len(body.out)), 32, m.rnd), body.out...)
		})
	}
}

func (m *mangler) locals() {
	n := m.r.u32()
	check(m.r.err)
	var groups [][]byte
	declare := func(n int, t []byte) { groups = append(groups, append(pad(nil, uint64(n), 32, m.rnd), t...)) }
	for range n {
		k := m.r.u32()
		check(m.r.err)
		typ := mangler{r: m.r, rnd: m.rnd}
		typ.typ()
		m.r = typ.r
		if m.rnd == nil {
			declare(int(k), typ.out)
			continue
		}
		for m.rnd.IntN(2) == 0 {
			declare(0, []byte{i64})
		}
		part := m.rnd.IntN(min(int(k), 1000) + 1)
		declare(part, typ.out)
		declare(int(k)-part, typ.out)
	}
	m.out = pad(m.out, uint64(len(groups)), 32, m.rnd)
	m.out = append(m.out, slices.Concat(groups...)...)
}

func (m *mangler) instruction() {
	op := m.byte()
	switch kind := opcodes[op]; kind {
	case misc:
		m.operands(miscOpcodes[m.byte()])
	case vector:
		op := m.byte()
		if op >= 0x80 {
			m.byte()
		}
		m.operands(vectorOpcodes[op])
	case atomic:
		m.operands(atomicOpcodes[m.byte()])
	default:
		const call, globalSet = 0x10, 0x24
		m.wide = op == call || op == opGlobalGet || op == globalSet
		switch op {
		case opI32Const:
			m.s(32)
		case opI64Const:
			m.s(64)
		default:
			m.operands(kind)
		}
	}
}

func (m *mangler) operands(kind byte) {
	switch kind {
	case oneInteger:
		m.u()
	case twoIndexes:
		m.u()
		m.u()
	case opens:
		if c := m.r.b[m.r.pos]; c == refNull || c == ref {
			m.typ()
		} else {
			m.heap(33)
		}
	case tryTable:
		m.operands(opens)
		m.vec(func() {
			if m.byte() < 2 {
				m.u()
			}
			m.u()
		})
	case brTable:
		m.vec(m.index)
		m.u()
	case selectType:
		m.bytes(2)
	case refType:
		m.heap(33)
	case fourBytes:
		m.bytes(4)
	case eightBytes:
		m.bytes(8)
	case vecBytes:
		m.bytes(16)
	case lane, oneZero:
		m.bytes(1)
	case memLane:
		m.operands(twoIndexes)
		m.bytes(1)
	case twoZeros:
		m.bytes(2)
	case indexZero:
		m.u()
		m.bytes(1)
	}
}

// Another spelling has the same canonical encoding, and wazero sees the same
// module in it.
func TestRespelled(t *testing.T) {
	r := decoder(t, allFeatures)
	modules := 0
	for i, m := range sampledCorpus(t, 2) {
		canonical, err := Canonical(m.wasm)
		if err != nil {
			continue
		}
		c, err := compile(r, m.wasm)
		if err != nil {
			continue
		}
		modules++
		mangled := mangle(m.wasm, uint64(i))
		got, err := Canonical(mangled)
		require.NoError(t, err, m.name)
		require.Equal(t, canonical, got, m.name)
		var streamed bytes.Buffer
		require.NoError(t, WriteCanonical(&streamed, mangled))
		require.Equal(t, canonical, streamed.Bytes(), m.name)

		k, err := compile(r, mangled)
		require.NoError(t, err, m.name)
		require.Equal(t, describe(c, false), describe(k, false), m.name)
		c.Close(context.Background())
		k.Close(context.Background())
	}
	t.Logf("%d modules", modules)
	require.Greater(t, modules, 1000)
}

// No byte of a canonical encoding can change without another fingerprint, or
// without the module becoming one that has no canonical encoding.
func TestFlippedBytes(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	flips, errors := 0, 0
	for _, m := range sampledCorpus(t, 7) {
		canonical, err := Canonical(m.wasm)
		if err != nil {
			continue
		}
		for range 20 {
			at := len(header) + rnd.IntN(max(1, len(canonical)-len(header)))
			if at >= len(canonical) {
				continue
			}
			flipped := bytes.Clone(canonical)
			flipped[at] ^= 1 << rnd.IntN(8)
			got, err := Canonical(flipped)
			flips++
			if err != nil {
				errors++
				continue
			}
			require.NotEqual(t, canonical, got, "%s: byte %#x", m.name, at)
		}
	}
	t.Logf("%d flips, %d of them errors", flips, errors)
}

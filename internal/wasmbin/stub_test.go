package wasmbin

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// inBody reports whether wazero refuses a module for the content of a body.
func inBody(err error) bool {
	s := err.Error()
	return strings.HasPrefix(s, "invalid function[") || strings.HasPrefix(s, "section code: read ") ||
		strings.HasPrefix(s, "unknown type ") && strings.Contains(s, "in func[") ||
		strings.HasPrefix(s, "panic: ")
}

func TestStubCorpus(t *testing.T) {
	r := decoder(t, allFeatures)
	tag := bytes.Repeat([]byte("tag"), 21)
	var valid, invalid, stubs int
	for _, m := range wholeCorpus(t) {
		c, cerr := compile(r, m.wasm)
		stub, err := Stub(m.wasm, tag)
		if err == nil {
			stubs++
			require.Equal(t, len(stub), cap(stub), m.name)
			d, err := NewDraft(m.wasm, len(tag))
			require.NoError(t, err, m.name)
			var whole bytes.Buffer
			d.WriteModule(&whole, m.wasm)
			require.True(t, bytes.Equal(m.wasm, whole.Bytes()), m.name)
		}
		if cerr != nil {
			invalid++
			if err == nil && !inBody(cerr) {
				_, err = compile(r, stub)
				require.Error(t, err, "%s was refused: %v", m.name, cerr)
			}
			continue
		}
		valid++
		o, oerr := Scan(m.wasm)
		require.NoError(t, oerr, m.name)
		require.EqualValues(t, len(c.ImportedFunctions()), o.ImportedFuncs, m.name)
		if o.DefinedFuncs == 0 {
			require.ErrorIs(t, err, ErrNoFunctions, m.name)
		} else {
			require.NoError(t, err, m.name)
			s, err := compile(r, stub)
			require.NoError(t, err, m.name)
			require.Equal(t, describe(c, true), describe(s, true), m.name)
			s.Close(context.Background())
		}
		c.Close(context.Background())
	}
	t.Logf("%d modules that wazero accepts, %d that it refuses, %d stubs", valid, invalid, stubs)
	require.Greater(t, stubs, 1000)
}

func module(sections ...string) []byte { return []byte(header + strings.Join(sections, "")) }

func TestStubBytes(t *testing.T) {
	const (
		typ   = "\x01\x04\x01\x60\x00\x00"
		fun   = "\x03\x03\x02\x00\x00"
		body  = "\x0a\x09\x02\x02\x00\x0b\x04\x01\x01\x7f\x0b"
		cust  = "\x00\x03\x01xy"
		first = "\x00\x00\x44\x02hi\x00\x00\x00\x00\x00\x1a\x0b"
	)
	require.Equal(t, 13, len(first))
	wasm := module(cust, typ, cust, fun, body, cust)
	stub, err := Stub(wasm, []byte("hi"))
	require.NoError(t, err)
	require.Equal(t, module(cust, typ, cust, fun, "\x0a\x13\x02\x0d"+first+"\x03\x00\x00\x0b", cust), stub)

	again, err := Stub(wasm, []byte("hi\x00"))
	require.NoError(t, err)
	require.NotEqual(t, stub, again)
	for n := range MaxTag + 1 {
		tag := bytes.Repeat([]byte{0xa5}, n)
		stub, err := Stub(wasm, tag)
		require.NoError(t, err)
		require.Equal(t, len(stub), cap(stub))
		_, err = compile(decoder(t, 0), stub)
		require.NoError(t, err, n)
	}
	_, err = Stub(wasm, make([]byte, MaxTag+1))
	require.Error(t, err)
	_, err = Stub(module(typ), nil)
	require.ErrorIs(t, err, ErrNoFunctions)
	_, err = Stub(module(typ, "\x03\x01\x00", "\x0a\x01\x00"), nil)
	require.ErrorIs(t, err, ErrNoFunctions)
}

// Modules that are malformed around their bodies must not be mended by a stub.
func TestStubRefuses(t *testing.T) {
	const typ, fun, body = "\x01\x04\x01\x60\x00\x00", "\x03\x02\x01\x00", "\x0a\x04\x01\x02\x00\x0b"
	_, err := Stub(module(typ, fun, body), nil)
	require.NoError(t, err)
	for name, wasm := range map[string][]byte{
		"empty":                      nil,
		"short header":               []byte("\x00asm\x01\x00"),
		"component":                  []byte("\x00asm\x0d\x00\x01\x00"),
		"unknown section":            module(typ, fun, body, "\x0e\x00"),
		"code before functions":      module(typ, body, fun),
		"two code sections":          module(typ, fun, body, body),
		"two function sections":      module(typ, fun, fun, body),
		"data count behind code":     module(typ, fun, body, "\x0c\x01\x00"),
		"tags behind globals":        module(typ, fun, "\x06\x01\x00", "\x0d\x01\x00", body),
		"no bodies":                  module(typ, fun),
		"bodies without functions":   module(typ, body),
		"fewer bodies":               module(typ, "\x03\x03\x02\x00\x00", body),
		"more bodies":                module(typ, fun, "\x0a\x07\x02\x02\x00\x0b\x02\x00\x0b"),
		"bytes behind bodies":        module(typ, fun, "\x0a\x05\x01\x02\x00\x0b\x0b"),
		"body beyond the section":    module(typ, fun, "\x0a\x04\x01\x03\x00\x0b\x0b"),
		"body without end":           module(typ, fun, "\x0a\x04\x01\x02\x00\x00"),
		"empty body":                 module(typ, fun, "\x0a\x02\x01\x00"),
		"body of one byte":           module(typ, fun, "\x0a\x03\x01\x01\x0b"),
		"huge count":                 module(typ, fun, "\x0a\x08\xff\xff\xff\xff\x0f\x02\x00\x0b"),
		"count of six bytes":         module(typ, fun, "\x0a\x09\x81\x80\x80\x80\x80\x00\x02\x00\x0b"),
		"size with unused bits":      module(typ, fun, "\x0a\x84\x80\x80\x80\x10\x01\x02\x00\x0b"),
		"size without end":           module(typ, fun, "\x0a\x84"),
		"section beyond the module":  module(typ, fun, "\x0a\x05\x01\x02\x00\x0b"),
		"custom name beyond section": module(typ, fun, body, "\x00\x02\x02xy"),
		"custom name not UTF-8":      module(typ, fun, body, "\x00\x02\x01\xff"),
		"custom without name":        module(typ, fun, body, "\x00\x00"),
	} {
		_, err := Stub(wasm, nil)
		require.Error(t, err, name)
		_, err = Scan(wasm)
		if !strings.Contains(name, "body") && !strings.Contains(name, "bodies") {
			require.Error(t, err, name)
		}
	}
}

// FuzzStub looks for a module that wazero refuses for something outside its
// bodies, and whose stub it accepts.
func FuzzStub(f *testing.F) {
	for i, m := range wholeCorpus(f) {
		if i%40 == 0 && len(m.wasm) < 1000 {
			f.Add(m.wasm)
		}
	}
	r := decoder(f, allFeatures)
	f.Fuzz(func(t *testing.T, wasm []byte) {
		Scan(wasm)
		if inflated(wasm) {
			return
		}
		stub, err := Stub(wasm, []byte("some tag"))
		if err != nil {
			return
		}
		s, serr := compile(r, stub)
		c, cerr := compile(r, wasm)
		if cerr == nil {
			require.NoError(t, serr)
			require.Equal(t, describe(c, true), describe(s, true))
		} else if !inBody(cerr) {
			require.Error(t, serr, "the module was refused: %v", cerr)
		}
	})
}

// A draft that was copied while the module changed stands for none.
func TestDraftOfAModuleThatChanges(t *testing.T) {
	const typ, fun, mem, body = "\x01\x04\x01\x60\x00\x00", "\x03\x02\x01\x00", "\x05\x03\x01\x00\x01", "\x0a\x04\x01\x02\x00\x0b"
	const segments = "\x0b\x0f\x02\x00\x41\x00\x0b\x02ab\x00\x41\x04\x0b\x02cd"
	wasm := module(typ, fun, mem, "\x00\x03\x01xy", body, segments, "\x00\x03\x01xy")
	draft := func() Draft {
		d, err := NewDraft(wasm, 0)
		require.NoError(t, err)
		require.Len(t, d.omitted(), 2)
		return d
	}
	for i := range 2 {
		first := draft()
		for at := range first.omissions[i].headerBytes() {
			d := draft()
			d.omissions[i].header[at]++
			require.Error(t, d.check(&dataSection{memory: page}))
		}
	}
	d := draft()
	require.NoError(t, d.check(&dataSection{memory: page}))
	require.Error(t, d.check(&dataSection{memory: 2 * page}))
	require.Error(t, d.check(&dataSection{memory: page, fixed: true}))
	changed := slices.Clone(wasm)
	changed[bytes.Index(changed, []byte("ab"))] = 'x'
	var module bytes.Buffer
	d.WriteModule(&module, changed)
	require.Equal(t, wasm, module.Bytes(), "data is as it was read")

	custom := bytes.Index(wasm, []byte("\x00\x03\x01xy")) + 1
	for size := byte(3); size < 60; size++ {
		d := draft()
		d.bytes[custom] = size
		require.Equal(t, size == 3, d.check(&dataSection{memory: page}) == nil, "another section swallows the code: %d", size)
	}
}

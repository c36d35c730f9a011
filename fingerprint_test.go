package modcache_test

import (
	"encoding"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wasmtest"
	"github.com/stretchr/testify/require"
)

func TestSum(t *testing.T) {
	// The test vector of BLAKE3 for the empty input.
	const empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
	require.Equal(t, empty, modcache.Sum(nil).String())
	require.Equal(t, empty, modcache.Sum([]byte{}).String())
	require.NotEqual(t, modcache.Sum([]byte("a")), modcache.Sum([]byte("b")))

	wasm := []byte("\x00asm\x01\x00\x00\x00")
	m := modcache.NewModule(wasm)
	require.Equal(t, modcache.Sum(wasm), m.Fingerprint())
	require.Same(t, &wasm[0], &m.Bytes()[0], "a Module keeps the slice")
	require.Equal(t, modcache.Sum(nil), modcache.NewModule(nil).Fingerprint())
}

// nameSection is a module's name for itself.
func nameSection(name string) []byte {
	return wasmtest.CustomSection("name", append([]byte{0, byte(len(name) + 1), byte(len(name))}, name...))
}

func TestModuleName(t *testing.T) {
	plain := wasmtest.Const(1)
	called := slices.Concat(plain, nameSection("left"))
	m := modcache.NewModule(called)
	require.Equal(t, "left", m.Name())
	named := m.Named("right.wasm")
	require.Equal(t, "right.wasm", named.Name())
	require.Equal(t, "left", m.Name(), "the original stays as it is")
	require.Equal(t, "left", named.Named("").Name())
	require.Equal(t, m.Fingerprint(), named.Fingerprint())
	require.Same(t, &called[0], &named.Bytes()[0])

	for _, wasm := range [][]byte{
		nil, plain, plain[:7],
		slices.Concat(plain, wasmtest.CustomSection("name", nil)),
		slices.Concat(plain, wasmtest.CustomSection("name", []byte{0, 9, 9, 'x'})),
		slices.Concat(plain, wasmtest.CustomSection("name", []byte{0, 2, 1, 0xff})),
		slices.Concat(plain, wasmtest.CustomSection("name", []byte{1, 2, 1, 'x'})),
		slices.Concat(plain, wasmtest.CustomSection("names", []byte{0, 2, 1, 'x'})),
		slices.Concat(plain, nameSection("cut"))[:len(plain)+9],
	} {
		require.Empty(t, modcache.NewModule(wasm).Name(), "%q", wasm)
	}
	long := strings.Repeat("x", 99)
	for given, want := range map[string]string{
		"a b/ü.wasm":               "a b/ü.wasm",
		"\x1b[2Jgone\r\nbell\a":    "?[2Jgone??bell?",
		"caf\xe9 \u202e":           "caf? ?",
		long + "xy":                long + "x",
		long + "éé":                long,
		strings.Repeat("世", 5000):  strings.Repeat("世", 33),
		long[:98] + "\xff\xff\xff": long[:98] + "?",
	} {
		require.Equal(t, want, modcache.NewModule(nil).Named(given).Name())
		if len(given) < 100 && utf8.ValidString(given) {
			require.Equal(t, want, modcache.NewModule(slices.Concat(plain, nameSection(given))).Name())
		}
	}
}

func TestHexForms(t *testing.T) {
	const text = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eff"
	key, err := modcache.ParseKey(text)
	require.NoError(t, err)
	require.Equal(t, byte(0xff), key[31])
	require.Equal(t, text, key.String())
	f, err := modcache.ParseFingerprint(strings.ToUpper(text))
	require.NoError(t, err)
	require.Equal(t, text, f.String())

	type both struct {
		Key    modcache.Key
		Module modcache.Fingerprint
		Counts map[modcache.Key]int
	}
	in := both{key, f, map[modcache.Key]int{key: 3}}
	b, err := json.Marshal(in)
	require.NoError(t, err)
	require.Contains(t, string(b), `"Key":"`+text+`"`)
	var out both
	require.NoError(t, json.Unmarshal(b, &out))
	require.Equal(t, in, out)

	for _, bad := range []string{"", text[1:], text + "0", " " + text[1:], text[:63] + "g", "0x" + text[2:],
		strings.Repeat("é", 32), text[:62] + "\x00\x00", strings.Repeat("x", 1<<20)} {
		for what, err := range map[string]error{
			"key":         second(modcache.ParseKey(bad)),
			"fingerprint": second(modcache.ParseFingerprint(bad)),
		} {
			require.Error(t, err, "%.80q", bad)
			require.True(t, strings.HasPrefix(err.Error(), "modcache: "+what+" "), err)
			require.Less(t, len(err.Error()), 500)
		}
		was := key
		require.Error(t, was.UnmarshalText([]byte(bad)))
		require.Equal(t, modcache.Key{}, was, "a value that couldn't be parsed must not look like one")
	}
}

func second[T any](_ T, err error) error { return err }

var (
	_ encoding.TextMarshaler   = modcache.Key{}
	_ encoding.TextUnmarshaler = (*modcache.Key)(nil)
	_ encoding.TextMarshaler   = modcache.Fingerprint{}
	_ encoding.TextUnmarshaler = (*modcache.Fingerprint)(nil)
	_ fmt.Stringer             = modcache.Key{}
)

func FuzzParseKey(f *testing.F) {
	f.Add("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eff")
	f.Add("FF")
	f.Fuzz(func(t *testing.T, s string) {
		key, err := modcache.ParseKey(s)
		fingerprint, err2 := modcache.ParseFingerprint(s)
		require.Equal(t, err == nil, err2 == nil)
		if err != nil {
			require.Equal(t, modcache.Key{}, key)
			require.Equal(t, modcache.Fingerprint{}, fingerprint)
			return
		}
		require.Equal(t, strings.ToLower(s), key.String())
		require.Equal(t, key.String(), fingerprint.String())
		again, err := modcache.ParseKey(key.String())
		require.NoError(t, err)
		require.Equal(t, key, again)
	})
}

func TestCanonical(t *testing.T) {
	for _, wasm := range []string{debugBuild, releaseBuild} {
		canonical, err := modcache.Canonicalize([]byte(wasm))
		require.NoError(t, err)
		again, err := modcache.Canonicalize(canonical)
		require.NoError(t, err)
		require.Equal(t, canonical, again)
		f, err := modcache.Canonical([]byte(wasm))
		require.NoError(t, err)
		require.Equal(t, modcache.Sum(canonical), f)
	}
	for _, wasm := range []string{"", "\x00asm\x01\x00\x00", releaseBuild + "\x0e\x00", releaseBuild[:len(releaseBuild)-1]} {
		_, err := modcache.Canonicalize([]byte(wasm))
		require.Error(t, err)
		_, err = modcache.Canonical([]byte(wasm))
		require.ErrorContains(t, err, "modcache: ")
	}
}

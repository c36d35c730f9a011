package layout_test

import (
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/layout"
)

var key = [32]byte{0xa1, 31: 0x0f}

const digits = "a10000000000000000000000000000000000000000000000000000000000000f"

func TestEntry(t *testing.T) {
	require.Equal(t, "a", layout.Shard(key))
	require.Equal(t, "a/"+digits+".v1", layout.Entry(key))
	for version, base := range map[string]string{"1": digits + layout.Suffix, "0": digits + ".v0", "27": digits + ".v27"} {
		got, v, ok := layout.ParseEntry(base)
		require.True(t, ok, base)
		require.Equal(t, key, got)
		require.Equal(t, version, v)
	}
	for _, base := range []string{
		"", "photo.jpg", digits, digits + ".bak", digits + ".v", digits + ".v1000", digits + ".vx", digits + ".v1~",
		strings.ToUpper(digits) + ".v1", digits[1:] + ".v1", "0" + digits + ".v1", strings.Replace(digits, "0", "g", 1) + ".v1",
		strings.Replace(digits, "0", "+", 1) + ".v1",
	} {
		_, _, ok := layout.ParseEntry(base)
		require.False(t, ok, base)
	}
}

func TestShard(t *testing.T) {
	for name, want := range map[string]bool{"0": true, "f": true, "": false, "g": false, "01": false, "tmp": false} {
		require.Equal(t, want, layout.IsShard(name), name)
	}
}

func TestLock(t *testing.T) {
	require.Equal(t, "lock/"+digits, layout.Lock(key))
	require.True(t, layout.IsLock(digits))
	require.False(t, layout.IsLock("mine"))
	require.False(t, layout.IsLock(digits+".v1"))
}

func TestUnique(t *testing.T) {
	one, two := layout.Unique(key), layout.Unique(key)
	require.NotEqual(t, one, two)
	require.True(t, layout.IsUnique(one))
	require.True(t, strings.HasPrefix(one, digits+"-"))
	for _, base := range []string{"", "notes.txt", digits, digits + "-", one[1:], one + "A", one[:len(one)-1]} {
		require.False(t, layout.IsUnique(base), base)
	}
}

func TestTag(t *testing.T) {
	require.True(t, layout.IsTag([]byte(layout.TagText)))
	require.False(t, layout.IsTag([]byte("Signature: 8a477f597d28d172789f06886806bc55\n# A cache of another program.\n")))
	require.False(t, layout.IsTag(nil))
}

func TestShowsCache(t *testing.T) {
	for name, want := range map[string]bool{layout.Tag: true, "0/": true, "f/": true, "0": false, layout.Tag + "/": false, "tmp/": false, layout.Readme: false} {
		fi := fstest.MapFS{"x/" + strings.TrimSuffix(name, "/"): &fstest.MapFile{Mode: map[bool]fs.FileMode{true: fs.ModeDir}[strings.HasSuffix(name, "/")]}}
		files, err := fi.ReadDir("x")
		require.NoError(t, err)
		require.Equal(t, want, layout.ShowsCache(files[0]), name)
	}
}

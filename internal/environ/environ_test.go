package environ

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRead(t *testing.T) {
	abs := filepath.Join(t.TempDir(), "cache")
	read := func(mode, dir, maxBytes string) Settings {
		return Read(func(name string) string { return map[string]string{Mode: mode, Dir: dir, MaxBytes: maxBytes}[name] })
	}
	s := read("", "", "")
	require.NoError(t, s.Err())
	require.Empty(t, s.Set)
	require.Equal(t, Settings{Errors: map[string]error{}}, s)

	s = read("ro", abs, "1.5GiB")
	require.NoError(t, s.Err())
	require.Equal(t, Settings{
		ReadOnly: true, Dir: abs, MaxBytes: 3 << 29, Errors: map[string]error{},
		Set: []string{"MODCACHE=ro", "MODCACHE_DIR=" + abs, "MODCACHE_MAX_BYTES=1.5GiB"},
	}, s)
	require.True(t, read("off", "", "").Off)
	require.Equal(t, abs, read("", abs+"/link/..", "").Dir)

	for _, bad := range [][3]string{{"on"}, {"OFF"}, {"0"}, {"", "cache"}, {"", "./x"}, {"", "~/x"}, {"", "", "much"}, {"", "", "-1"}, {"", "", "0"}, {"", "", "0.2"}} {
		s := read(bad[0], bad[1], bad[2])
		require.ErrorContains(t, s.Err(), "ignored", "%q", bad)
		require.Len(t, s.Errors, 1)
		s.Errors = nil
		require.Equal(t, Settings{}, s, "%q", bad)
	}
	require.ErrorContains(t, read("x", "y", "z").Err(), "\n")
}

//go:build unix

package dirfs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMakeIsUndoneWhereItWasMade has somebody put a link in the place of a directory that is
// being made, before it is refused.
func TestMakeIsUndoneWhereItWasMade(t *testing.T) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	ours := filepath.Join(base, "bin", "modcache")
	require.NoError(t, os.Mkdir(filepath.Dir(ours), 0o700))
	require.NoError(t, os.WriteFile(ours, []byte("a program of ours"), 0o700))
	above := filepath.Join(base, "above")
	require.NoError(t, os.Mkdir(above, 0o700))
	app, away := filepath.Join(above, "app"), filepath.Join(above, "away")

	var rules Rules
	p, err := rules.resolve(filepath.Join(app, "modcache"))
	require.NoError(t, err)
	end, err := rules.make(p)
	require.NoError(t, err)
	require.NoError(t, os.Rename(app, away))
	require.NoError(t, os.Symlink(filepath.Dir(ours), app))
	end(false)
	require.FileExists(t, ours)
	require.NoDirExists(t, filepath.Join(away, "modcache"))

	require.NoError(t, os.Remove(app))
	_, err = rules.make(p)
	require.NoError(t, err)
	require.NoError(t, os.Rename(above, filepath.Join(base, "away")))
	require.NoError(t, os.Mkdir(above, 0o700))
	_, err = rules.make(p)
	require.ErrorIs(t, err, ErrInsecure, "not the directory that was judged")
	require.NoDirExists(t, app)
}

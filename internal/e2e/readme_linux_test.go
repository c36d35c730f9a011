package e2e

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/wasmtest"
)

// readmeProgram builds the first program in README.md, and returns it with a module for it, where
// everybody can read both.
func readmeProgram(t *testing.T) (program, module string) {
	if testing.Short() {
		t.Skip("builds a program")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("NOT TESTED: README's program, which needs the go tool")
	}
	root := moduleRoot(t)
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	require.NoError(t, err)
	dir := openToAll(t, t.TempDir())
	source := filepath.Join(dir, "main.go")
	program, module = filepath.Join(dir, "program"), filepath.Join(dir, "module.wasm")
	require.NoError(t, os.WriteFile(source, []byte(snippetsIn("README.md", text)[0].text), 0o600))
	cmd := exec.Command("go", "build", "-o", program, source)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, os.Chmod(program, 0o755))
	require.NoError(t, os.WriteFile(module, wasmtest.Sum(3, 1), 0o644))
	return program, module
}

// openToAll lets everybody reach dir.
func openToAll(t *testing.T, dir string) string {
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		require.NoError(t, os.Chmod(d, 0o755))
	}
	return dir
}

// listing describes all files below dir.
func listing(t *testing.T, dir string) (names []string) {
	require.NoError(t, filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			var fi fs.FileInfo
			if fi, err = d.Info(); err == nil {
				st := fi.Sys().(*syscall.Stat_t)
				names = append(names, strings.Join([]string{name, fi.Mode().String(), string(rune('0' + st.Uid%10))}, " "))
			}
		}
		return err
	}))
	return names
}

// TestReadmeProgramRunsAnywhere starts README's program where it finds no directory for a cache. It
// runs there too, and leaves no trace.
func TestReadmeProgramRunsAnywhere(t *testing.T) {
	program, module := readmeProgram(t)
	const nobody, somebody = 65534, 12345
	asNobody := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	home := func(t *testing.T, owner int, mode fs.FileMode) string {
		dir := filepath.Join(openToAll(t, t.TempDir()), "home")
		require.NoError(t, os.Mkdir(dir, 0o700))
		require.NoError(t, os.Chown(dir, owner, owner))
		require.NoError(t, os.Chmod(dir, mode))
		return dir
	}
	// in has the program started with what is mounted on dir, which nobody else sees.
	in := func(dir, mount string) []string {
		return []string{"unshare", "--mount", "sh", "-ec", mount + ` "$0" && exec "$@"`, dir}
	}
	for _, c := range []struct {
		name  string
		start func(t *testing.T) (home string, env, before []string, as *syscall.SysProcAttr)
		keeps bool // a cache was made
	}{
		{"a home", func(t *testing.T) (string, []string, []string, *syscall.SysProcAttr) {
			dir := home(t, nobody, 0o700)
			return dir, []string{"HOME=" + dir}, nil, asNobody
		}, true},
		{"no HOME", func(t *testing.T) (string, []string, []string, *syscall.SysProcAttr) { return "", nil, nil, nil }, false},
		{"HOME=/", func(t *testing.T) (string, []string, []string, *syscall.SysProcAttr) {
			return "", []string{"HOME=/"}, nil, asNobody
		}, false},
		{"a read-only home", func(t *testing.T) (string, []string, []string, *syscall.SysProcAttr) {
			dir := home(t, nobody, 0o555)
			return dir, []string{"HOME=" + dir}, nil, asNobody
		}, false},
		{"a missing home", func(t *testing.T) (string, []string, []string, *syscall.SysProcAttr) {
			dir := home(t, 0, 0o755)
			return dir, []string{"HOME=" + dir + "/none"}, nil, asNobody
		}, false},
		{"a home that is a file", func(t *testing.T) (string, []string, []string, *syscall.SysProcAttr) {
			dir := home(t, nobody, 0o755)
			require.NoError(t, os.WriteFile(dir+"/file", nil, 0o644))
			return dir, []string{"HOME=" + dir + "/file"}, nil, asNobody
		}, false},
		{"a relative directory", func(t *testing.T) (string, []string, []string, *syscall.SysProcAttr) {
			return "", []string{"XDG_CACHE_HOME=cache"}, nil, nil
		}, false},
		{"root with a user's HOME", func(t *testing.T) (string, []string, []string, *syscall.SysProcAttr) {
			dir := home(t, somebody, 0o755)
			return dir, []string{"HOME=" + dir}, nil, nil
		}, false},
		{"another user's directory", func(t *testing.T) (string, []string, []string, *syscall.SysProcAttr) {
			dir := home(t, somebody, 0o777)
			require.NoError(t, os.Mkdir(dir+"/modcache", 0o700))
			require.NoError(t, os.Chown(dir+"/modcache", somebody, somebody))
			return dir, []string{"XDG_CACHE_HOME=" + dir}, nil, asNobody
		}, false},
		{"an insecure directory", func(t *testing.T) (string, []string, []string, *syscall.SysProcAttr) {
			dir := home(t, nobody, 0o700)
			require.NoError(t, os.Mkdir(dir+"/modcache", 0o700))
			require.NoError(t, os.Chown(dir+"/modcache", nobody, nobody))
			require.NoError(t, os.Chmod(dir+"/modcache", 0o777))
			return dir, []string{"XDG_CACHE_HOME=" + dir}, nil, asNobody
		}, false},
		{"a read-only file system", func(t *testing.T) (string, []string, []string, *syscall.SysProcAttr) {
			dir := home(t, 0, 0o700)
			return dir, []string{"HOME=" + dir}, in(dir, "mount -t tmpfs -o ro none"), nil
		}, false},
		{"a full file system", func(t *testing.T) (string, []string, []string, *syscall.SysProcAttr) {
			dir := home(t, 0, 0o700)
			return dir, []string{"HOME=" + dir}, in(dir, "mount -t tmpfs -o nr_inodes=1 none"), nil
		}, false},
		{"MODCACHE=off", func(t *testing.T) (string, []string, []string, *syscall.SysProcAttr) {
			dir := home(t, nobody, 0o700)
			return dir, []string{"HOME=" + dir, "MODCACHE=off"}, nil, asNobody
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if os.Geteuid() != 0 && c.name != "no HOME" && c.name != "a relative directory" {
				t.Skip("NOT TESTED: takes root to run as somebody else")
			}
			dir, env, before, as := c.start(t)
			if len(before) > 0 {
				if out, err := exec.Command("unshare", "--mount", "true").CombinedOutput(); err != nil {
					t.Skipf("NOT TESTED: mounts of one process: %v %s", err, out)
				}
			}
			var was []string
			if dir != "" {
				was = listing(t, dir)
			}
			args := append(before, program, module)
			for range 2 {
				cmd := exec.Command(args[0], args[1:]...)
				cmd.Env = append(env, "PATH="+os.Getenv("PATH"))
				cmd.Dir, cmd.SysProcAttr = "/", as
				out, err := cmd.CombinedOutput()
				require.NoError(t, err, "%s", out)
				require.Empty(t, string(out))
			}
			if dir == "" {
				return
			}
			if c.keeps {
				require.DirExists(t, dir+"/.cache/modcache")
				return
			}
			require.Equal(t, was, listing(t, dir), "something was left behind")
		})
	}
	require.NoDirExists(t, "/cache")
}

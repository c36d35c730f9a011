package wazerohook

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// moduleCache makes the part of a module cache that tells a version's checksum.
func moduleCache(t *testing.T, version, sum string) string {
	root := t.TempDir()
	dir := filepath.Join(root, "cache", "download", filepath.FromSlash(wazeroPath), "@v")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, version+".ziphash"), []byte(sum), 0o600))
	return root
}

func program(deps ...*debug.Module) *debug.BuildInfo {
	return &debug.BuildInfo{Path: "example.com/app", Main: debug.Module{Path: "example.com/app", Version: "(devel)"}, Deps: deps}
}

func wazeroDep(version, sum string, replace *debug.Module) *debug.Module {
	return &debug.Module{Path: wazeroPath, Version: version, Sum: sum, Replace: replace}
}

func TestIdentity(t *testing.T) {
	const known = wazeroPath + "@v1.12.0 h1:abc="
	cache := moduleCache(t, "v1.12.0", "h1:abc=\n")
	inCache := cache + "/" + wazeroPath + "@v1.12.0/config.go"
	noSums := t.TempDir() + "/pkg/mod/" + wazeroPath + "@v1.12.0/config.go"
	testBinary := &debug.BuildInfo{Path: "example.com/app.test", Main: debug.Module{Path: "example.com/app"}}
	library := program()
	library.Settings = []debug.BuildSetting{{Key: "-buildmode", Value: "c-shared"}}
	archive := program(wazeroDep("v1.12.0", "", nil))
	archive.Settings = []debug.BuildSetting{{Key: "-buildmode", Value: "c-archive"}}

	const exe, unknown = "executable 0123", ""
	for _, c := range []struct {
		name string
		info *debug.BuildInfo
		file string
		want string
	}{
		{"module with checksum", program(wazeroDep("v1.12.0", "h1:abc=", nil)), inCache, known},
		{"module with checksum, trimmed", program(wazeroDep("v1.12.0", "h1:abc=", nil)), wazeroPath + "@v1.12.0/config.go", known},
		{"another checksum", program(wazeroDep("v1.12.0", "h1:abd=", nil)), inCache, wazeroPath + "@v1.12.0 h1:abd="},
		{"another version", program(wazeroDep("v1.11.0", "h1:abc=", nil)), inCache, wazeroPath + "@v1.11.0 h1:abc="},
		{"vendored", program(wazeroDep("v1.12.0", "", nil)), "/app/vendor/" + wazeroPath + "/config.go", exe},
		{"vendored, source elsewhere", program(wazeroDep("v1.12.0", "", nil)), inCache, exe},
		{"replaced by a fork", program(wazeroDep("v1.12.0", "", &debug.Module{Path: "example.com/wazero", Version: "v0.1.0", Sum: "h1:fork="})), inCache, "example.com/wazero@v0.1.0 h1:fork="},
		{"replaced by another version", program(wazeroDep("v1.12.0", "h1:abc=", &debug.Module{Path: wazeroPath, Version: "v1.11.0", Sum: "h1:old="})), inCache, wazeroPath + "@v1.11.0 h1:old="},
		{"replaced by a directory", program(wazeroDep("v1.12.0", "h1:abc=", &debug.Module{Path: "../wazero"})), "/src/wazero/config.go", exe},
		{"replaced by a directory named like a module cache", program(wazeroDep("v1.12.0", "h1:abc=", &debug.Module{Path: "/x"})), inCache, exe},
		{"replaced by a directory, trimmed", program(wazeroDep("v1.12.0", "h1:abc=", &debug.Module{Path: "../wazero"})), wazeroPath + "@v1.12.0/config.go", exe},
		{"workspace", program(wazeroDep("(devel)", "", nil)), "/src/wazero/config.go", exe},
		{"wazero's own program", &debug.BuildInfo{Path: wazeroPath + "/cmd/wazero", Main: debug.Module{Path: wazeroPath, Version: "(devel)"}}, "/src/wazero/config.go", exe},
		{"installed wazero", &debug.BuildInfo{Path: wazeroPath + "/cmd/wazero", Main: debug.Module{Path: wazeroPath, Version: "v1.12.0", Sum: "h1:abc="}}, inCache, known},

		{"test binary", testBinary, inCache, known},
		{"test binary, other place", testBinary, filepath.ToSlash(moduleCache(t, "v1.12.0", "h1:abc=")) + "/" + wazeroPath + "@v1.12.0/config.go", known},
		{"test binary, trimmed", testBinary, wazeroPath + "@v1.12.0/config.go", exe},
		{"test binary, replaced", testBinary, "/src/wazero/config.go", exe},
		{"test binary, replaced by a copy of the module cache's directory", testBinary, noSums, exe},
		{"test binary, vendored", testBinary, "/app/vendor/" + wazeroPath + "/config.go", exe},
		{"test binary, version not in the module cache", testBinary, cache + "/" + wazeroPath + "@v1.11.0/config.go", exe},
		{"test binary, another package of that name", testBinary, cache + "/" + wazeroPath + "@v1.12.0/internal/config.go", exe},
		{"test binary, no version", testBinary, cache + "/" + wazeroPath + "@/config.go", exe},
		{"test binary, empty checksum", testBinary, moduleCache(t, "v1.12.0", "") + "/" + wazeroPath + "@v1.12.0/config.go", exe},
		{"no build info, module cache", nil, inCache, known},
		{"no build info", nil, "/bazel/external/wazero/config.go", exe},
		{"no file name", nil, "", exe},

		{"library of a C program", library, "/src/wazero/config.go", unknown},
		{"library of a C program, module cache", library, inCache, known},
		{"archive in a C program", archive, "/app/vendor/" + wazeroPath + "/config.go", map[bool]string{true: exe}[runtime.GOOS == "linux"]},
		{"plugin", program(&debug.Module{Path: "example.com/x", Version: "v1.0.0", Sum: "h1:x="}), "/src/wazero/config.go", unknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			if runtime.GOOS == "windows" && strings.HasPrefix(c.file, "/") {
				t.Skip("NOT TESTED: the names are those of Unix")
			}
			file := func() string { return c.file }
			id, err := identity(c.info, file, func() (string, error) { return "0123", nil })
			require.Equal(t, c.want, id)
			require.Equal(t, c.want == unknown, err != nil, "%v", err)

			id, err = identity(c.info, file, func() (string, error) { return "", errors.New("unreadable") })
			if c.want == exe {
				require.ErrorContains(t, err, "unreadable")
				require.Empty(t, id, "an identity that isn't known must not be made up")
				return
			}
			require.Equal(t, c.want, id)
		})
	}
}

func TestIdentityOfThisTest(t *testing.T) {
	id, err := Identity()
	require.NoError(t, err)
	again, err := Identity()
	require.NoError(t, err)
	require.Equal(t, id, again)
	t.Log(id)
}

// The code may be elsewhere than in the executable, which says nothing about it then.
func TestMappedFrom(t *testing.T) {
	const maps = `00400000-0040b000 r-xp 00000000 fe:00 1048602                            /usr/bin/python3.12
7c100000-7c121000 rw-p 00000000 00:00 0 
7c180000-7c190000 r-xp 00200000 fe:00 2230                       /opt/my  plugin.so (deleted)
7d100000-7d110000 rw-p 00000000 00:00 0                          [stack]
`
	for at, want := range map[uintptr]string{
		0x400000: "/usr/bin/python3.12", 0x40afff: "/usr/bin/python3.12", 0x40b000: "",
		0x7c100000: "", 0x7c180001: "/opt/my  plugin.so (deleted)", 0x7d100000: "[stack]",
	} {
		require.Equal(t, want, mappedFrom(maps, at), "%x", at)
	}
	require.Empty(t, mappedFrom("damaged\n-\n", 1))
	if runtime.GOOS == "linux" {
		id, err := thisExecutable()
		require.NoError(t, err, "a test is a program of its own")
		require.NotEmpty(t, id)
		own, err := os.ReadFile("/proc/self/maps")
		require.NoError(t, err)
		exe, err := os.Readlink("/proc/self/exe")
		require.NoError(t, err)
		require.Equal(t, escaped(exe), mappedFrom(string(own), wazerosCode()))
	}
}

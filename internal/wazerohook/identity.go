package wazerohook

import (
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/tetratelabs/wazero"
	"github.com/zeebo/blake3"
)

const wazeroPath = "github.com/tetratelabs/wazero"

// Identity names the wazero code that is linked into this program: two programs
// with the same identity run the same compiler. It prefers what the build says
// (module version and checksum), then the place in the module cache that the
// code was compiled from, and falls back to a hash of the executable, which
// changes with every edit but never collides.
func Identity() (string, error) {
	info, _ := debug.ReadBuildInfo()
	if id, ok := fromBuildInfo(info); ok {
		return id, nil
	}
	file, _ := runtime.FuncForPC(reflect.ValueOf(wazero.NewRuntimeConfig).Pointer()).FileLine(0)
	if id, ok := fromSourcePath(file); ok {
		return id, nil
	}
	sum, err := executableSum()
	if err != nil {
		return "", fmt.Errorf("no version of wazero in the build, and %w", err)
	}
	return "executable " + sum, nil
}

// fromBuildInfo trusts a version only with its checksum: vendored sources and
// local replacements have none, and may be anything.
func fromBuildInfo(info *debug.BuildInfo) (string, bool) {
	if info == nil {
		return "", false
	}
	for _, dep := range info.Deps {
		if dep.Path != wazeroPath {
			continue
		}
		if dep.Replace != nil {
			dep = dep.Replace
		}
		if dep.Sum == "" || dep.Version == "" {
			return "", false
		}
		return dep.Path + "@" + dep.Version + " " + dep.Sum, true
	}
	return "", false
}

// fromSourcePath reads the version off a file name in a module cache, and the
// checksum that the go command keeps there. Test binaries carry no list of
// modules, so this is how they get the identity that the program itself has.
// Only an absolute name says where the code came from: -trimpath writes the
// required version even when the module is replaced.
func fromSourcePath(file string) (string, bool) {
	if !filepath.IsAbs(file) {
		return "", false
	}
	cache, rest, ok := strings.Cut(filepath.ToSlash(file), "/"+wazeroPath+"@")
	if !ok {
		return "", false
	}
	version, ok := strings.CutSuffix(rest, "/config.go")
	if !ok || version == "" || strings.Contains(version, "/") {
		return "", false
	}
	sum, err := os.ReadFile(filepath.Join(cache, "cache", "download", wazeroPath, "@v", version+".ziphash"))
	switch {
	case err == nil && len(sum) > 0:
		return wazeroPath + "@" + version + " " + strings.TrimSpace(string(sum)), true
	case strings.HasSuffix(cache, "/pkg/mod"):
		// The default place of a module cache, on a machine that doesn't have it.
		return "module cache " + wazeroPath + "@" + version, true
	}
	return "", false
}

func executableSum() (string, error) {
	name, err := os.Executable()
	if err != nil {
		return "", err
	}
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := blake3.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

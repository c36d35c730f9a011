package wazerohook

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/tetratelabs/wazero"
	"github.com/zeebo/blake3"
)

const wazeroPath = "github.com/tetratelabs/wazero"

// Identity names the wazero code that is linked into this program: two programs
// with the same identity run the same compiler. It prefers what the build says
// (module version and checksum), then the place in the module cache that the
// code was compiled from, and falls back to what tells the executable from all others: the go
// command's build id, or a hash of the file. That changes with every edit but never collides.
//
// It takes the word of the go command: sources in the module cache that were
// edited in place, or overlaid with -overlay, go unnoticed.
func Identity() (string, error) {
	return ourIdentity.Of(func() (string, error) {
		info, _ := debug.ReadBuildInfo()
		return identity(info, sourceFile, thisExecutable)
	})
}

var ourIdentity Finding[string]

// wazerosCode is an address in it.
func wazerosCode() uintptr { return reflect.ValueOf(wazero.NewRuntimeConfig).Pointer() }

// sourceFile is the name of wazero's config.go at compile time.
func sourceFile() string {
	file, _ := runtime.FuncForPC(wazerosCode()).FileLine(0)
	return file
}

// identity decides with what the build says about itself, and with what is asked for where that doesn't tell.
func identity(info *debug.BuildInfo, file func() string, executable func() (string, error)) (string, error) {
	said, found := wazeroIn(info)
	if found && said.Version != "" && said.Sum != "" {
		return said.Path + "@" + said.Version + " " + said.Sum, nil
	}
	if !found {
		if id, ok := fromSourcePath(file()); ok {
			return id, nil
		}
	}
	// Vendored sources and replacements have no checksum, and may be anything,
	// wherever they lie.
	if outside(info, found) {
		return "", errors.New("no version of wazero in the build, and it isn't in the executable but in a library")
	}
	sum, err := executable()
	if err != nil {
		return "", fmt.Errorf("no version of wazero in the build, and %w", err)
	}
	return "executable " + sum, nil
}

// outside reports that the code isn't in the executable: it is in a C program's
// library, or in a plugin of a Go program that lists its modules but not wazero.
func outside(info *debug.BuildInfo, found bool) bool {
	if info == nil {
		return false
	}
	for _, s := range info.Settings {
		if s.Key == "-buildmode" && (s.Value == "c-shared" || s.Value == "c-archive" && runtime.GOOS != "linux") { // where thisExecutable looks
			return true
		}
	}
	isTest := strings.HasSuffix(info.Path, ".test")
	return !found && !isTest && info.Main.Path != ""
}

// wazeroIn finds the module that wazero's packages come from. Test binaries carry
// no list of modules.
func wazeroIn(info *debug.BuildInfo) (m debug.Module, found bool) {
	if info == nil {
		return m, false
	}
	if info.Main.Path == wazeroPath {
		return info.Main, true
	}
	for _, dep := range info.Deps {
		switch {
		case dep.Path != wazeroPath:
		case dep.Replace != nil:
			return *dep.Replace, true
		default:
			return *dep, true
		}
	}
	return m, false
}

// fromSourcePath reads the version off a file name in a module cache, and the
// checksum that the go command keeps there. Only an absolute name says where the
// code came from: -trimpath writes the required version even when the module is
// replaced. Without the checksum, the directory may be anybody's copy.
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
	if err != nil || !strings.HasPrefix(string(sum), "h1:") {
		return "", false
	}
	return wazeroPath + "@" + version + " " + strings.TrimSpace(string(sum)), true
}

// thisExecutable tells the file that this process runs from all that contain other code. On Linux that is the very
// file even if another has taken its name since, as a deployment does.
func thisExecutable() (string, error) {
	if runtime.GOOS != "linux" {
		name, err := os.Executable()
		if err != nil {
			return "", err
		}
		return executable(name)
	}
	const exe = "/proc/self/exe"
	name, nameErr := os.Readlink(exe)
	maps, mapsErr := os.ReadFile("/proc/self/maps") // which a profile of AppArmor may forbid
	if nameErr == nil && mapsErr == nil {
		if file := mappedFrom(string(maps), wazerosCode()); strings.HasPrefix(file, "/") && file != escaped(name) {
			return "", fmt.Errorf("it isn't in the executable, %s, but in %s", name, file)
		}
	}
	return executable(exe)
}

// mappedFrom returns which file a process has at an address, as far as its maps say. A library of a C program, a
// plugin, and what was started by naming the dynamic linker aren't the executable.
func mappedFrom(maps string, at uintptr) (file string) {
	for line := range strings.Lines(maps) {
		where, rest, _ := strings.Cut(line, " ")
		from, to, _ := strings.Cut(where, "-")
		start, startErr := strconv.ParseUint(from, 16, 64)
		end, endErr := strconv.ParseUint(to, 16, 64)
		if startErr != nil || endErr != nil || uint64(at) < start || uint64(at) >= end {
			continue
		}
		for range 4 { // columns before the name
			_, rest, _ = strings.Cut(strings.TrimLeft(rest, " "), " ")
		}
		return strings.Trim(rest, " \n")
	}
	return ""
}

// escaped is a file's name as maps have it.
func escaped(name string) string { return strings.ReplaceAll(name, "\n", `\012`) }

// executable returns the id that the go command gave to a program or, where that doesn't tell, a
// hash of the file, which takes as long as reading all of it.
func executable(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if id := buildID(f); id != "" {
		return id, nil
	}
	h := blake3.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

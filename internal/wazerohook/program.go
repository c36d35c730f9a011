package wazerohook

import (
	"debug/buildinfo"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
)

// Program is what an executable says about the wazero in it.
type Program struct {
	Identity string // what [Identity] returns when the program runs
	Format   string // Format.Version of its entries, as wazero finds it
	Required string // the version of wazero in its go.mod
	GOOS     string
	GOARCH   string
}

// ErrNoWazero means that an executable doesn't contain wazero, or doesn't say so.
var ErrNoWazero = errors.New("the program lists no wazero among its modules")

// ReadProgram reads the executable in file without running it. A test binary lists no
// modules and is [ErrNoWazero].
func ReadProgram(file string) (Program, error) {
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return Program{}, fmt.Errorf("%s is not an executable that Go built: %w", file, err)
	}
	p, err := ProgramOf(info, func() (string, error) { return executable(file) })
	if err != nil {
		return Program{}, fmt.Errorf("%s: %w", file, err)
	}
	return p, nil
}

// ProgramOf returns what build information says, of an executable that is known by what the
// function returns where its wazero has no checksum.
func ProgramOf(info *debug.BuildInfo, executable func() (string, error)) (p Program, err error) {
	if _, found := wazeroIn(info); !found {
		return p, ErrNoWazero
	}
	if p.Identity, err = identity(info, func() string { return "" }, executable); err != nil {
		return p, err
	}
	if info.Main.Path == wazeroPath {
		p.Required = info.Main.Version
	}
	// wazero takes the last module whose path contains its own, with the version
	// that is required, whatever replaces it.
	for _, dep := range info.Deps {
		if strings.Contains(dep.Path, wazeroPath) {
			p.Format = dep.Version
		}
		if dep.Path == wazeroPath {
			p.Required = dep.Version
		}
	}
	if p.Format == "" || p.Format == "(devel)" {
		p.Format = info.Main.Version
	}
	if p.Format == "" || p.Format == "(devel)" {
		p.Format = "dev"
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "GOOS":
			p.GOOS = s.Value
		case "GOARCH":
			p.GOARCH = s.Value
		}
	}
	return p, nil
}

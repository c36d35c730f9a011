package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/modcache/modcache/internal/wazerohook"
)

// readProgram returns what an executable says about its wazero, or what the one will say
// that the go command builds of the package in a directory.
func readProgram(name string) (wazerohook.Program, error) {
	if fi, err := os.Stat(name); err != nil || !fi.IsDir() {
		return wazerohook.ReadProgram(name)
	}
	// It isn't built: what is being made may be a file that it embeds.
	info, err := listModules(name)
	if err != nil {
		return wazerohook.Program{}, fmt.Errorf("%s: %w", name, err)
	}
	p, err := wazerohook.ProgramOf(info, func() (string, error) { return "that isn't built yet", nil })
	if err != nil {
		return p, fmt.Errorf("%s: %w", name, err)
	}
	return p, nil
}

// listModules returns what the build information of the package in dir will say.
func listModules(dir string) (*debug.BuildInfo, error) {
	list := func(args ...string) ([]byte, error) {
		cmd := exec.Command("go", append([]string{"list", "-e"}, args...)...)
		var trouble bytes.Buffer
		cmd.Dir, cmd.Stderr = dir, &trouble
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("go list: %w: %s", err, strings.TrimSpace(trouble.String()))
		}
		return out, nil
	}
	platform, err := list("-f", "{{context.GOOS}} {{context.GOARCH}}", ".")
	if err != nil {
		return nil, err
	}
	out, err := list("-deps", "-json=Module", ".")
	if err != nil {
		return nil, err
	}
	info := new(debug.BuildInfo)
	if f := strings.Fields(string(platform)); len(f) == 2 {
		info.Settings = []debug.BuildSetting{{Key: "GOOS", Value: f[0]}, {Key: "GOARCH", Value: f[1]}}
	}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			Module *struct {
				debug.Module
				Main bool
			}
		}
		switch err := d.Decode(&p); {
		case errors.Is(err, io.EOF):
			slices.SortFunc(info.Deps, func(a, b *debug.Module) int { return strings.Compare(a.Path, b.Path) })
			return info, nil
		case err != nil:
			return nil, fmt.Errorf("go list: %w", err)
		case p.Module == nil: // of the standard library
		case p.Module.Main:
			info.Main = p.Module.Module
		case !slices.ContainsFunc(info.Deps, func(m *debug.Module) bool { return m.Path == p.Module.Path }):
			info.Deps = append(info.Deps, &p.Module.Module)
		}
	}
}

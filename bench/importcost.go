package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/modcache/modcache/bench/internal/report"
)

var importCost = part{
	name:  "import",
	title: "What importing costs",
	about: "Programs that import a package and do nothing with it, and programs that are ready to compile modules with it (and\n" +
		"stop before they do when they are started without arguments). Size is of the binary as `go build -trimpath` makes\n" +
		"it; a start is a process from its creation to its end; \"init\" is what GODEBUG=inittrace=1 sums up for all packages.",
	run: runImportCost,
}

const (
	nothing = "nothing"
	plain   = "wazero, imported"
	used    = "wazero, used"
)

// program is a main function and what it needs.
type program struct {
	name    string
	role    report.Role
	needs   string // a directory of modcache, without which the program is left out
	imports []string
	body    string
}

const (
	wazeroPath   = "github.com/tetratelabs/wazero"
	modcachePath = "github.com/modcache/modcache"
	busy         = `if len(os.Args) == 1 { return }; ctx := context.Background(); wasm, _ := os.ReadFile(os.Args[1]); `
)

var programs = []program{
	{nothing, report.Yardstick, "", nil, ""},
	{plain, report.Yardstick, "", []string{"_ " + wazeroPath}, ""},
	{"modcache, imported", report.Yardstick, "", []string{"_ " + modcachePath}, ""},
	{"modcache/remote, imported", report.Yardstick, "remote", []string{"_ " + modcachePath + "/remote"}, ""},
	{used, report.Peer, "", []string{"context", "os", wazeroPath}, busy +
		`cc, _ := wazero.NewCompilationCacheWithDir("x"); _, _ = wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithCompilationCache(cc)).CompileModule(ctx, wasm)`},
	{"modcache, used", report.Ours, "", []string{"context", "os", wazeroPath, modcachePath}, busy +
		`c, _ := modcache.Open("x", nil); r, _ := c.NewRuntime(ctx, wazero.NewRuntimeConfig()); _, _ = r.CompileModule(ctx, wasm); _ = c.Close(ctx)`},
}

// source returns the program as Go.
func (p program) source() string {
	var b strings.Builder
	b.WriteString("package main\n\n")
	for _, path := range p.imports {
		blank, path, ok := strings.Cut(path, " ")
		if !ok {
			blank, path = "", blank
		}
		fmt.Fprintf(&b, "import %s %q\n", blank, path)
	}
	fmt.Fprintf(&b, "\nfunc main() { %s }\n", p.body)
	return b.String()
}

func runImportCost(ctx context.Context, b *bench) ([]report.Case, error) {
	dir, err := b.importModule(ctx)
	if err != nil {
		return nil, err
	}
	size := report.Case{Name: "Binary", Unit: "MB", Reference: used, Chart: true, Headline: true}
	begin := report.Case{Name: "Start and end of a process", Unit: "ms", Reference: used, Chart: true}
	var binaries []string
	for i, p := range programs {
		binaries = append(binaries, "")
		if _, err := os.Stat(filepath.Join("..", p.needs)); p.needs != "" && errors.Is(err, os.ErrNotExist) {
			continue
		}
		if binaries[i], err = p.build(ctx, filepath.Join(dir, strconv.Itoa(i))); err != nil {
			return nil, err
		}
		info, err := os.Stat(binaries[i])
		if err != nil {
			return nil, err
		}
		size.Add(p.name, p.role, float64(info.Size())/1e6)
		trace, err := initTrace(ctx, binaries[i])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		begin.Rows = append(begin.Rows, report.Row{Side: p.name, Role: p.role, Figures: trace})
	}
	for round := range b.pick(3, 60) {
		for _, i := range turn(round, len(programs)) {
			if binaries[i] == "" {
				continue
			}
			at := time.Now()
			if err := exec.CommandContext(ctx, binaries[i]).Run(); err != nil {
				return nil, fmt.Errorf("%s: %w", programs[i].name, err)
			}
			begin.Add(programs[i].name, programs[i].role, time.Since(at).Seconds()*1e3)
		}
	}
	return []report.Case{size, begin}, nil
}

// importModule makes a module that has modcache and wazero at the versions of this one.
func (b *bench) importModule(ctx context.Context) (dir string, err error) {
	if dir, err = b.dir(); err != nil {
		return "", err
	}
	root, err := filepath.Abs("..")
	if err != nil {
		return "", err
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return "", err
		}
	}
	edit := exec.CommandContext(ctx, "go", "mod", "edit", "-module=importcost", "-replace="+modcachePath+"="+root)
	edit.Dir = dir
	if out, err := edit.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go mod edit: %w\n%s", err, out)
	}
	return dir, nil
}

func (p program) build(ctx context.Context, dir string) (binary string, err error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(p.source()), 0o644); err != nil {
		return "", err
	}
	build := exec.CommandContext(ctx, "go", "build", "-mod=mod", "-trimpath", "-o", "program.exe", ".")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", p.name, err, out)
	}
	return filepath.Join(dir, "program.exe"), nil
}

var initLine = regexp.MustCompile(`(?m)^init \S+ @\S+ ms, (\S+) ms clock, (\d+) bytes, (\d+) allocs$`)

// initTrace sums up what initialising all packages took.
func initTrace(ctx context.Context, binary string) ([]report.Figure, error) {
	cmd := exec.CommandContext(ctx, binary)
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return nil, err
	}
	return sumInits(stderr.String())
}

func sumInits(trace string) ([]report.Figure, error) {
	lines := initLine.FindAllStringSubmatch(trace, -1)
	if lines == nil {
		return nil, fmt.Errorf("GODEBUG=inittrace=1 printed nothing to read: %.200q", trace)
	}
	sum := [3]float64{}
	for _, l := range lines {
		for i := range sum {
			v, err := strconv.ParseFloat(l[1+i], 64)
			if err != nil {
				return nil, err
			}
			sum[i] += v
		}
	}
	return []report.Figure{{Name: "init, ms", Value: sum[0]}, {Name: "init, bytes", Value: sum[1]}, {Name: "init, allocs", Value: sum[2]}}, nil
}

package matrix

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wasmtest"
)

const wazeroModule = "github.com/tetratelabs/wazero"

// report and way mirror those of testdata/program.
type report struct {
	Wazero, Engine, Attach string
	Unknown                bool
	DropIn, Runtime        way
}

type way struct {
	Results  []uint64
	Errors   []string
	Missed   int
	Metrics  modcache.CacheMetrics
	Degraded []string
}

func (r report) ways() map[string]way {
	return map[string]way{"drop-in": r.DropIn, "Runtime": r.Runtime}
}

// program is a build of testdata/program.
type program struct {
	exe     string
	dir     string   // of its cache
	modules []string // files
	results []uint64 // what they return
}

// build builds the program in a module of its own, whose go.mod ends with the
// given lines. network allows it to ask the module proxy.
func build(t *testing.T, gomod string, network bool, flags ...string) *program {
	t.Helper()
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	dir := t.TempDir()
	source, err := os.ReadFile("testdata/program/main.go")
	require.NoError(t, err)
	sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
	require.NoError(t, err)
	for name, text := range map[string]string{
		"main.go": string(source),
		"go.sum":  string(sums),
		"go.mod": "module example.com/program\n\ngo 1.25.0\n\nrequire github.com/modcache/modcache v0.0.0\n" +
			"replace github.com/modcache/modcache => " + root + "\n" + gomod + "\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	p := &program{exe: filepath.Join(dir, "program.exe"), dir: filepath.Join(dir, "cache")}
	cmd := exec.Command("go", append([]string{"build", "-mod=mod", "-buildvcs=false", "-o", p.exe}, append(flags, ".")...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	if !network {
		cmd.Env = append(cmd.Env, "GOPROXY=off")
	}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)

	p.add(t, wasmtest.Sum(300, 7), 300*301/2+7)
	p.add(t, wasmtest.Const(-3), 1<<32-3)
	p.add(t, wasmtest.Sum(20, 1), 20*21/2+1)
	return p
}

// add has the program run another module too, whose export f returns result.
func (p *program) add(t *testing.T, wasm []byte, result uint64) {
	t.Helper()
	name := filepath.Join(filepath.Dir(p.exe), fmt.Sprint(len(p.modules), ".wasm"))
	require.NoError(t, os.WriteFile(name, wasm, 0o600))
	p.modules = append(p.modules, name)
	once := append(p.results[:len(p.results)/2:len(p.results)/2], result)
	p.results = append(once, once...) // it runs all of them twice
}

// run runs the program in a process of its own.
func (p *program) run(t *testing.T, args ...string) report {
	t.Helper()
	cmd := exec.Command(p.exe, append(append([]string{"-dir", p.dir}, args...), p.modules...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(t, cmd.Run(), "%s", &stderr)
	var r report
	require.NoError(t, json.Unmarshal(stdout.Bytes(), &r))
	return r
}

// requireRight checks that each module returned what it should, whatever the cache did.
func (p *program) requireRight(t *testing.T, r report) {
	t.Helper()
	for name, w := range r.ways() {
		require.Empty(t, w.Errors, name)
		require.Equal(t, p.results, w.Results, name)
	}
}

// damage flips a bit in each entry, or cuts it.
func (p *program) damage(t *testing.T) (entries int) {
	t.Helper()
	err := filepath.WalkDir(p.dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, ".v1") {
			return err
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if entries++; entries%2 == 0 {
			b = b[:len(b)-len(b)/3]
		} else {
			b[len(b)*2/3] ^= 0x10
		}
		return os.WriteFile(name, b, 0o600)
	})
	require.NoError(t, err)
	return entries
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/modcache/modcache/bench/internal/report"
	"github.com/modcache/modcache/bench/modules"
)

// part is a comparison.
type part struct {
	name, title, about string
	run                func(ctx context.Context, b *bench) ([]report.Case, error)
}

// bench is what the parts of a run share.
type bench struct {
	quick   bool
	given   bool // the user named the modules
	tmp     string
	modules func() ([]modules.Module, error)
}

func newBench(ctx context.Context, quick bool, files []string) (*bench, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m").Output()
	if err != nil || strings.TrimSpace(string(out)) != "github.com/modcache/modcache/bench" {
		return nil, errors.New("run this in the directory bench of modcache, with the go command in PATH")
	}
	tmp, err := os.MkdirTemp("", "modcache-bench-")
	if err != nil {
		return nil, err
	}
	return &bench{quick, len(files) > 0, tmp, sync.OnceValues(func() (found []modules.Module, err error) {
		for _, file := range files {
			m, err := modules.Open(file)
			if err != nil {
				return nil, err
			}
			found = append(found, m)
		}
		if found == nil {
			return modules.Find(ctx, tmp, quick)
		}
		return found, nil
	})}, nil
}

// pick returns how much to do of something.
func (b *bench) pick(quick, full int) int {
	if b.quick {
		return quick
	}
	return full
}

// dir returns a new directory.
func (b *bench) dir() (string, error) { return os.MkdirTemp(b.tmp, "") }

// turn returns the numbers below n in the order of that round: each round
// begins with another one.
func turn(round, n int) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = (i + round) % n
	}
	return order
}

// childFlag makes the program do one piece of work and print what it took.
const childFlag = "-child"

// children are the pieces of work that are done in processes of their own.
var children = map[string]func(ctx context.Context, args []byte) (any, error){
	"start":     work(startOnce),
	"firstcall": work(firstCallOnce),
	"host":      work(hostOnce),
	"instances": work(timeInstances),
	"idle":      work(idleInstances),
	"herd":      work(herdOnce),
	"reuse":     work(reuseRounds),
}

func work[A, R any](f func(context.Context, A) (R, error)) func(context.Context, []byte) (any, error) {
	return func(ctx context.Context, b []byte) (any, error) {
		var args A
		if err := json.Unmarshal(b, &args); err != nil {
			return nil, err
		}
		return f(ctx, args)
	}
}

func childMain(args []string) int {
	result, err := children[args[0]](context.Background(), []byte(args[1]))
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(result)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// child does a piece of work in a new process.
func child[R any](ctx context.Context, name string, args any) (result R, state *os.ProcessState, err error) {
	self, err := os.Executable()
	if err != nil {
		return result, nil, err
	}
	b, err := json.Marshal(args)
	if err != nil {
		return result, nil, err
	}
	cmd := exec.CommandContext(ctx, self, childFlag, name, string(b))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		const most = 1000
		said := stderr.Bytes()
		return result, cmd.ProcessState, fmt.Errorf("%s in a process of its own: %w\n%s", name, err, said[:min(len(said), most)])
	}
	return result, cmd.ProcessState, json.Unmarshal(out, &result)
}

// config is the configuration that all modules are compiled under.
func config() wazero.RuntimeConfig {
	return wazero.NewRuntimeConfig().WithCoreFeatures(api.CoreFeaturesV2 | experimental.CoreFeaturesThreads | experimental.CoreFeaturesExceptionHandling)
}

func wazeroDir(dir string) (wazero.CompilationCache, error) {
	return wazero.NewCompilationCacheWithDir(filepath.Join(dir, "wazero"))
}

func modcacheDir(dir string) string { return filepath.Join(dir, "modcache") }

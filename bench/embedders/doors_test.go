package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	extism "github.com/extism/go-sdk"
	"github.com/klippa-app/go-pdfium/webassembly"
	"github.com/knqyf263/go-plugin/examples/helloworld/greeting"
	"github.com/ncruces/go-sqlite3"
	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/modcache/modcache"
)

// doors are what libraries let a program choose, as docs/embedders.md shows it. Each goes on to
// the end of a first call.
var doors = map[string]func(ctx context.Context, cache *modcache.Cache, guest string) error{
	"go-plugin": func(ctx context.Context, cache *modcache.Cache, guest string) error {
		newRuntime := cache.RuntimeFunc(nil, wasi_snapshot_preview1.Instantiate)
		loader, err := greeting.NewGreeterPlugin(ctx, greeting.WazeroRuntime(newRuntime))
		if err != nil {
			return err
		}
		return greet(ctx, loader, guest)
	},
	"extism": func(ctx context.Context, cache *modcache.Cache, guest string) error {
		config := extism.PluginConfig{
			EnableWasi:    true,
			RuntimeConfig: wazero.NewRuntimeConfig().WithCompilationCache(cache.CompilationCache()),
		}
		return callExtism(ctx, config, extismFile(guest), extismCall{export: "count_vowels"})
	},
	"extism, stub": func(ctx context.Context, cache *modcache.Cache, guest string) error {
		wasm, err := os.ReadFile(guest)
		if err != nil {
			return err
		}
		runtimeConfig := wazero.NewRuntimeConfig().WithCompilationCache(cache.CompilationCache())
		stub, err := cache.Stub(ctx, runtimeConfig, modcache.NewModule(wasm))
		if err != nil {
			return err
		}
		config := extism.PluginConfig{EnableWasi: true, RuntimeConfig: runtimeConfig}
		manifest := extism.Manifest{Wasm: []extism.Wasm{extism.WasmData{Data: stub}}}
		return callExtism(ctx, config, manifest, extismCall{export: "count_vowels"})
	},
	"go-pdfium": func(ctx context.Context, cache *modcache.Cache, _ string) error {
		config := webassembly.Config{
			MinIdle: 1, MaxIdle: 1, MaxTotal: 1,
			RuntimeConfig: wazero.NewRuntimeConfig().
				WithCoreFeatures(api.CoreFeaturesV2 | experimental.CoreFeaturesExceptionHandling). // as without a configuration
				WithCompilationCache(cache.CompilationCache()),
		}
		return countPages(config)
	},
	"go-sqlite3": func(ctx context.Context, cache *modcache.Cache, _ string) error {
		sqlite3.RuntimeConfig = wazero.NewRuntimeConfig().
			WithMemoryLimitPages(4096). // as it is without a configuration
			WithCompilationCache(cache.CompilationCache())
		return selectOne()
	},
}

// guestOf are the guests that the doors need.
var guestOf = map[string]guest{
	"go-plugin":    {name: "morning.wasm", pkg: goPlugin},
	"extism, stub": {name: "count_vowels.wasm", module: extismSDK, file: "wasm/count_vowels.wasm"},
	"extism":       {name: "count_vowels.wasm", module: extismSDK, file: "wasm/count_vowels.wasm"},
}

const doorVariable = "MODCACHE_EMBEDDERS_DOOR"

// TestMain lets the tests' binary go through a door: some libraries compile once per process.
func TestMain(m *testing.M) {
	door := doors[os.Getenv(doorVariable)]
	if door == nil {
		os.Exit(m.Run())
	}
	if err := startThrough(door, os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func startThrough(door func(context.Context, *modcache.Cache, string) error, dir, guest string) error {
	ctx := context.Background()
	cache, err := modcache.Open(dir, nil)
	if err != nil {
		return err
	}
	if err := door(ctx, cache, guest); err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(cache.Metrics()); err != nil {
		return err
	}
	return cache.Close(ctx)
}

// TestDoors starts each library twice, in processes of its own, the way that its users can. The
// second start compiles nothing.
func TestDoors(t *testing.T) {
	for name := range doors {
		t.Run(name, func(t *testing.T) {
			dir, file := filepath.Join(t.TempDir(), "cache"), ""
			if g, ok := guestOf[name]; ok {
				var err error
				file, err = g.find(t.Context(), t.TempDir())
				require.NoError(t, err)
			}
			for i, compiles := range []bool{true, false} {
				cmd := exec.Command(os.Args[0], dir, file)
				cmd.Env, cmd.Stderr = append(os.Environ(), doorVariable+"="+name), os.Stderr
				out, err := cmd.Output()
				require.NoError(t, err)
				var m modcache.CacheMetrics
				require.NoError(t, json.Unmarshal(out, &m))
				require.Equal(t, compiles, m.Compiles > 0, "start %d: %v", i, m)
				require.True(t, compiles || m.Hits > 0, "start %d: %v", i, m)
			}
		})
	}
}

var goBlock = regexp.MustCompile("(?s)```go\n(.*?)```")

// TestDocument has each block of Go in docs/embedders.md stand in this file, where it is
// compiled and run.
func TestDocument(t *testing.T) {
	document, err := os.ReadFile("../../docs/embedders.md")
	require.NoError(t, err)
	here, err := os.ReadFile("doors_test.go")
	require.NoError(t, err)
	blocks := goBlock.FindAllSubmatch(document, -1)
	require.Len(t, blocks, len(doors))
	for _, b := range blocks {
		require.Contains(t, flat(here), flat(b[1]))
	}
	for _, e := range embedders {
		require.Contains(t, string(document), "| "+e.name+" |", "its row")
	}
}

// flat is a text without its indentation.
func flat(b []byte) string {
	lines := strings.Split(string(b), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "\n")
}

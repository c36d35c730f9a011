package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/wasmtest"
	"github.com/modcache/modcache/internal/wazerohook"
)

func TestWarm(t *testing.T) {
	src, files := modules(t, 3)
	require.NoError(t, os.MkdirAll(filepath.Join(src, "sub"), 0o700))
	require.NoError(t, os.Rename(files[2], filepath.Join(src, "sub", "c.WASM")))
	require.NoError(t, os.WriteFile(filepath.Join(src, "note.txt"), []byte("no module"), 0o600))
	cache := filepath.Join(t.TempDir(), "a", "cache")

	o := call("warm", "-dir", cache, src, files[0]).want(t, exitOK)
	require.Equal(t, 3, strings.Count(o.out, "compiled  "))
	require.Contains(t, o.out, "3 compiled, 0 present, 0 failed\n")
	require.Empty(t, o.err)
	o = call("warm", "-dir", cache, src).want(t, exitOK)
	require.Contains(t, o.out, "0 compiled, 3 present, 0 failed\n")

	before := snapshot(t, cache)
	o = call("warm", "-dir", cache, "-require", src).want(t, exitOK)
	require.Equal(t, 3, strings.Count(o.out, "present   "))
	require.NoError(t, os.WriteFile(files[2], wasmtest.Sum(9, 9), 0o600))
	o = call("warm", "-dir", cache, "-require", src).want(t, exitFound)
	require.Contains(t, o.out, "missing   "+files[2])
	require.Contains(t, o.err, "1 of 4 modules are missing")
	require.Equal(t, before, snapshot(t, cache))

	// What counts: a program finds it.
	r, err := openWarm(t, cache, modcache.Options{}).NewRuntime(bg, nil)
	require.NoError(t, err)
	defer r.Close(bg)
	wasm, err := os.ReadFile(files[1])
	require.NoError(t, err)
	m, err := r.Instantiate(bg, wasm)
	require.NoError(t, err)
	results, err := m.ExportedFunction("f").Call(bg)
	require.NoError(t, err)
	require.Equal(t, uint64(40*41/2+1), results[0])
}

// TestWarmQuotesNoModule has names in a module that wazero refuses: they are very long, and would begin a line.
func TestWarmQuotesNoModule(t *testing.T) {
	needsCompiler(t)
	name := "\x1b[2J\ncompiled  forged.wasm in 1ms\n" + strings.Repeat("x", 1<<20)
	var m wasmtest.Module
	m.Section(2, []byte{1, 0}, wasmtest.U32(uint32(len(name))), []byte(name), []byte{9}) // an import of no kind
	file := filepath.Join(t.TempDir(), "m.wasm")
	require.NoError(t, os.WriteFile(file, m.Bytes(), 0o600))
	for _, flags := range [][]string{{"-json"}, {"-drop-in"}, nil} {
		o := call(append([]string{"warm", "-dir", filepath.Join(t.TempDir(), "cache"), file}, flags...)...).want(t, exitFailed)
		require.Contains(t, o.err, "forged")
		require.Less(t, len(o.out+o.err), 4<<10)
		require.NotContains(t, o.out+o.err, "\x1b")
		require.NotContains(t, o.out+o.err, "\ncompiled  forged")
	}
}

func TestWarmWhatCanBeRead(t *testing.T) {
	needsCompiler(t)
	if !cachetest.Unprivileged(t) {
		return
	}
	src, _ := modules(t, 2)
	sub := filepath.Join(src, "closed")
	require.NoError(t, os.Mkdir(sub, 0))
	cache := filepath.Join(t.TempDir(), "cache")
	o := call("warm", "-dir", cache, src).want(t, exitFailed)
	require.Contains(t, o.out, "2 compiled, 0 present, 1 failed\n")
	require.Contains(t, o.out+o.err, sub+": permission denied")
	call("warm", "-dir", cache, "-require", src).want(t, exitFailed)
}

// TestWarmConfig checks that each flag means the setting of its name.
func TestWarmConfig(t *testing.T) {
	rc := wazero.NewRuntimeConfig
	for flags, config := range map[string]wazero.RuntimeConfig{
		"":                          rc(),
		"-features=v1,simd":         rc().WithCoreFeatures(api.CoreFeaturesV1 | api.CoreFeatureSIMD),
		"-features=v2,threads":      rc().WithCoreFeatures(api.CoreFeaturesV2 | experimental.CoreFeaturesThreads),
		"-features=v2,-simd":        rc().WithCoreFeatures(api.CoreFeaturesV2 &^ api.CoreFeatureSIMD),
		"-memory-limit-pages=100":   rc().WithMemoryLimitPages(100),
		"-memory-capacity-from-max": rc().WithMemoryCapacityFromMax(true),
		"-close-on-context-done":    rc().WithCloseOnContextDone(true),
		"-no-debug-info":            rc().WithDebugInfoEnabled(false),
		"-custom-sections":          rc().WithCustomSections(true),
		"-compiler":                 wazero.NewRuntimeConfigCompiler(),
	} {
		_, files := modules(t, 1)
		cache := filepath.Join(t.TempDir(), "cache")
		args := []string{"warm", "-dir", cache, files[0]}
		if flags != "" {
			args = append(args, flags)
		}
		call(args...).want(t, exitOK)
		wasm, err := os.ReadFile(files[0])
		require.NoError(t, err)
		require.NoError(t, openWarm(t, cache, modcache.Options{}).Warm(bg, config, modcache.NewModule(wasm)), flags)
		if flags != "" {
			require.ErrorIs(t, openWarm(t, cache, modcache.Options{}).Warm(bg, rc(), modcache.NewModule(wasm)), modcache.ErrMiss, flags)
		}
	}
}

func TestWarmDropIn(t *testing.T) {
	src, files := modules(t, 2)
	cache := filepath.Join(t.TempDir(), "cache")
	call("warm", "-dir", cache, "-drop-in", src).want(t, exitOK)
	o := call("warm", "-dir", cache, "-drop-in", src).want(t, exitOK)
	require.Contains(t, o.out, "0 compiled, 2 present, 0 failed\n")
	call("warm", "-dir", cache, "-drop-in", "-require", src).want(t, exitOK)
	call("warm", "-dir", cache, "-require", src).want(t, exitFound)
	require.Contains(t, call("doctor", "-dir", cache, files[0]).want(t, exitFound).out, "entries are of the drop-in")
	require.Contains(t, call("ls", "-dir", cache).want(t, exitOK).out, "drop-in")

	wasm, err := os.ReadFile(files[0])
	require.NoError(t, err)
	config := wazero.NewRuntimeConfig().WithCompilationCache(openWarm(t, cache, modcache.Options{}).CompilationCache())
	r := wazero.NewRuntimeWithConfig(bg, config)
	defer r.Close(bg)
	_, err = r.CompileModule(bg, wasm)
	require.NoError(t, err)
}

func TestWarmBadModules(t *testing.T) {
	src, files := modules(t, 2)
	bad := filepath.Join(src, "bad.wasm")
	require.NoError(t, os.WriteFile(bad, []byte("\x00asm\x01\x00\x00\x00\xff"), 0o600))
	cache := filepath.Join(t.TempDir(), "cache")
	for _, flags := range [][]string{nil, {"-drop-in"}} {
		o := call(append([]string{"warm", "-dir", cache, src}, flags...)...).want(t, exitFailed)
		require.Contains(t, o.err, "failed    "+bad)
		require.Contains(t, o.err, "1 of 3 modules failed")
		require.Contains(t, o.out, "2 compiled, 0 present, 1 failed\n")
	}
	call("warm", "-dir", cache, filepath.Join(src, "none.wasm")).want(t, exitFailed)
	o := call("warm", "-dir", cache, t.TempDir()).want(t, exitFailed)
	require.Contains(t, o.err, "ends in .wasm")
	call(append([]string{"warm", "-dir", cache, "-require"}, files...)...).want(t, exitOK)
}

func TestWarmRepairs(t *testing.T) {
	cache, files := warmed(t, 3)
	damage(t, entries(t, cache)[1])
	args := append([]string{"-dir", cache}, files...)
	o := call(append([]string{"warm", "-require"}, args...)...).want(t, exitFound)
	require.Contains(t, o.err, "1 of 3 modules are missing")
	require.Contains(t, o.err, "1 entry is damaged")
	o = call(append([]string{"warm"}, args...)...).want(t, exitOK)
	require.Contains(t, o.out, "1 compiled, 2 present, 0 failed\n")
	call("verify", "-dir", cache).want(t, exitOK)
}

func TestWarmCompressedAndSealed(t *testing.T) {
	src, _ := modules(t, 2)
	cache := filepath.Join(t.TempDir(), "cache")
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("0123456789abcdef\n"), 0o600))
	call("warm", "-dir", cache, "-key-file", secret, "-compress", src).want(t, exitOK)
	call("warm", "-dir", cache, "-key-file", secret, "-require", src).want(t, exitOK)
	call("warm", "-dir", cache, "-require", src).want(t, exitFound)
	o := call("verify", "-dir", cache).want(t, exitFound)
	require.Contains(t, o.out, "see -key-file")
	require.Contains(t, call("doctor", "-dir", cache).want(t, exitFound).out, "sealed with another secret")
	call("verify", "-dir", cache, "-key-file", secret).want(t, exitOK)
	// Not even with -quarantine is judged what can't be judged.
	call("verify", "-dir", cache, "-quarantine").want(t, exitFound)
	require.Len(t, entries(t, cache), 2)

	o = call("ls", "-dir", cache, "-key-file", filepath.Join(src, "none")).want(t, exitFailed)
	require.Contains(t, o.err, "read the secret")
	require.NoError(t, os.WriteFile(secret, []byte("short\n"), 0o600))
	require.Contains(t, call("ls", "-dir", cache, "-key-file", secret).want(t, exitFailed).err, "at least 16")
	c := openWarm(t, cache, modcache.Options{Disk: modcache.DiskOptions{Key: []byte("0123456789abcdef")}})
	require.NoError(t, c.Warm(bg, nil, modcache.NewModule(wasmtest.Sum(40, 0))))
}

// cancelling cancels a context on its first write.
type cancelling struct {
	bytes.Buffer
	cancel context.CancelFunc
}

func (c *cancelling) Write(p []byte) (int, error) {
	c.cancel()
	return c.Buffer.Write(p)
}

func TestWarmInterrupted(t *testing.T) {
	src, _ := modules(t, 20)
	cache := filepath.Join(t.TempDir(), "cache")
	ctx, cancel := context.WithCancel(bg)
	out := &cancelling{cancel: cancel}
	o := callWith(ctx, &streams{out: out}, "warm", "-dir", cache, "-jobs", "2", src).want(t, exitFailed)
	require.Contains(t, o.err, "interrupted")
	require.NotContains(t, out.String(), "failed")
	n := len(entries(t, cache))
	require.GreaterOrEqual(t, n, 1)
	require.Less(t, n, 20)
	call("verify", "-dir", cache).want(t, exitOK)
	o = call("warm", "-dir", cache, src).want(t, exitOK)
	require.NotContains(t, o.out, "20 compiled")
	call("warm", "-dir", cache, "-require", src).want(t, exitOK)
}

func TestProgress(t *testing.T) {
	src, _ := modules(t, 3)
	cache := filepath.Join(t.TempDir(), "cache")
	t.Setenv("TERM", "xterm")
	o := callWith(bg, &streams{errIsTerminal: true}, "warm", "-dir", cache, src).want(t, exitOK)
	require.Contains(t, o.err, "3/3")
	require.True(t, strings.HasSuffix(o.err, "\r\x1b[K"), "the bar must go away")
	require.Equal(t, 3, strings.Count(o.out, "compiled  "))
	require.NotContains(t, o.out, "\x1b")

	p := newProgress(&streams{}, 1234)
	p.done = make([]moduleReady, 1233)
	for _, name := range []string{"a", strings.Repeat("ü", 100), "b\x1b[2J"} {
		p.active[name] = p.start
		line := p.text(p.start.Add(12345 * time.Second))
		require.Less(t, len([]rune(line)), 80)
		require.NotContains(t, line, "\x1b")
	}
	p.close()
}

func TestEngineCheck(t *testing.T) {
	needsCompiler(t)
	own, err := modcache.EngineID()
	require.NoError(t, err)
	w, err := wazerohook.Probe()
	require.NoError(t, err)
	const other = "github.com/tetratelabs/wazero@v1.0.0 h1:abc="
	program := func(id, format, arch string) *wazerohook.Program {
		return &wazerohook.Program{Identity: id, Format: format, GOOS: strings.Split(platform(), "/")[0], GOARCH: arch}
	}
	arch := strings.Split(platform(), "/")[1]
	for _, c := range []struct {
		name string
		en   engine
		want string
	}{
		{"own", engine{id: own, own: own}, ""},
		{"chosen", engine{id: "release 12", own: own}, ""},
		{"somebody else's", engine{id: other, own: own}, "would crash"},
		{"another executable", engine{id: "executable 01", own: own}, "would crash"},
		{"program", engine{id: own, own: own, program: program(own, w.Version, arch)}, ""},
		{"program that chooses", engine{id: "release 12", own: own, program: program(own, w.Version, arch)}, ""},
		{"vendored program that chooses", engine{id: "release 12", own: own, program: program("executable 01", w.Version, arch)}, ""},
		{"another wazero whatever it chooses", engine{id: "release 12", own: own, program: program(other, w.Version, arch)}, "go get -tool"},
		{"another wazero", engine{id: other, own: own, program: program(other, w.Version, arch)}, "go get -tool"},
		{"vendored", engine{id: "executable 01", own: own, program: program("executable 01", w.Version, arch)}, "set Options.EngineID"},
		{"another platform", engine{id: own, own: own, program: program(own, w.Version, "mips")}, "built for"},
		{"another format", engine{id: own, own: own, program: program(own, "v0.0.0", arch)}, "refuse"},
	} {
		err := c.en.check()
		if c.want == "" {
			require.NoError(t, err, c.name)
		} else {
			require.ErrorContains(t, err, c.want, c.name)
		}
	}
	src, files := modules(t, 1)
	cache := filepath.Join(t.TempDir(), "cache")
	require.Contains(t, call("warm", "-dir", cache, "-engine-id", other, src).want(t, exitFailed).err, "would crash")
	require.NoDirExists(t, cache)
	call("warm", "-dir", cache, "-engine-id", "release 12", src).want(t, exitOK)
	call("warm", "-dir", cache, "-require", src).want(t, exitFound)
	o := call("doctor", "-dir", cache, files[0]).want(t, exitFound)
	require.Contains(t, o.out, "there for another engine only: release 12")
	wasm, err := os.ReadFile(files[0])
	require.NoError(t, err)
	require.NoError(t, openWarm(t, cache, modcache.Options{EngineID: "release 12"}).Warm(bg, nil, modcache.NewModule(wasm)))
}

// TestWarmPanic warms a module that wazero's validator runs past the end of.
func TestWarmPanic(t *testing.T) {
	if wasmtest.ExceptionHandling.String() == "" {
		t.Skip("this wazero is too old for the module")
	}
	var m wasmtest.Module
	m.Body(m.Type(nil, nil), "f", []byte{0, 0x1f, 0, 0x0b}) // try_table without its clauses
	if !compilePanics(m.Bytes()) {
		t.Skip("this wazero doesn't know try_table, or doesn't panic any more")
	}
	src, _ := modules(t, 1)
	require.NoError(t, os.WriteFile(filepath.Join(src, "bad.wasm"), m.Bytes(), 0o600))
	for _, mode := range []string{"-drop-in=false", "-drop-in"} {
		cache := filepath.Join(t.TempDir(), "cache")
		o := call("warm", "-dir", cache, "-features", "v2,exception-handling", mode, src).want(t, exitFailed)
		require.Contains(t, o.out, "1 compiled, 0 present, 1 failed", mode)
		require.Contains(t, o.err, "panic", mode)
		require.NotContains(t, o.err, ".go:", mode)
	}
}

func compilePanics(wasm []byte) (panicked bool) {
	defer func() { panicked = recover() != nil }()
	r := wazero.NewRuntimeWithConfig(bg, wazero.NewRuntimeConfig().WithCoreFeatures(api.CoreFeaturesV2|wasmtest.ExceptionHandling))
	defer r.Close(bg)
	_, _ = r.CompileModule(bg, wasm)
	return false
}

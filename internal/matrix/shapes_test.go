package matrix

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/wasmtest"
)

// edit replaces text in one of wazero's files. A "?" before the name says that not all
// versions have that text.
type edit struct{ file, old, new string }

const (
	cacheFile   = "cache.go"
	engineFile  = "internal/engine/wazevo/engine_cache.go"
	runtimeFile = "runtime.go"
)

// What is left of modcache in a wazero of another shape.
const (
	nothing      = "nothing"
	dropInOnly   = "drop-in only"
	unstored     = "nothing is stored"
	late         = "what is stored before the program ends"
	noSharing    = "no sharing between runtimes"
	everything   = "everything"
	lessCatching = "everything but modules that catch"
)

// shapes are wazeros that might be released one day.
var shapes = []struct {
	name  string
	left  string
	edits []edit
	args  []string // of the program
}{
	{"the field has another name", nothing, []edit{
		{cacheFile, "\tfileCache filecache.Cache", "\tfiles filecache.Cache"},
		{cacheFile, "c.fileCache", "c.files"},
	}, nil},
	{"the field is a struct", nothing, []edit{
		{cacheFile, "\tfileCache filecache.Cache", "\tfileCache struct{ filecache.Cache }"},
		{cacheFile, "features, c.fileCache)", "features, c.fileCache.Cache)"},
		{cacheFile, "c.fileCache =", "c.fileCache.Cache ="},
	}, nil},
	{"files have another method", nothing, []edit{
		{"internal/filecache/compilationcache.go", "\tDelete(key Key) (err error)", "\tDelete(key Key) (err error)\n\tLen() int"},
		{"internal/filecache/file_cache.go", "// fileCache persists", "func (fc *fileCache) Len() int { return 0 }\n\n// fileCache persists"},
	}, nil},
	{"files are wazero's own", nothing, []edit{
		{cacheFile, "features, c.fileCache)", "features, own(c.fileCache))"},
		{cacheFile, "\nfunc mkdir(", own + "\nfunc mkdir("},
	}, nil},
	{"files are wazero's own where they are used", nothing, []edit{
		{engineFile, "= e.fileCache.Get(", "= own(e.fileCache).Get("},
		{engineFile, "\n// fileCacheKey", own + "\n// fileCacheKey"},
	}, nil},
	{"Get has another signature", nothing, []edit{
		{"internal/filecache/compilationcache.go", "Get(key Key) (content", "Get(key Key, size int) (content"},
		{"internal/filecache/file_cache.go", "Get(key Key) (content", "Get(key Key, size int) (content"},
		{engineFile, "Get(fileCacheKey(module))", "Get(fileCacheKey(module), 0)"},
	}, nil},
	{"engines are kept elsewhere", nothing, []edit{
		{cacheFile, "engs ", "engines "},
		{cacheFile, "c.engs", "c.engines"},
	}, nil},
	{"the magic number changed", unstored, []edit{
		{engineFile, "{'W', 'A', 'Z', 'E', 'V', 'O'}", "{'W', 'A', 'Z', 'E', 'V', '2'}"},
	}, nil},
	{"the header has another field", unstored, []edit{
		{engineFile, "buf.WriteString(wazeroVersion)", "buf.WriteString(wazeroVersion)\n\tbuf.Write(u32.LeBytes(7))"},
		{engineFile, "len(wazeroVersion) + 4", "len(wazeroVersion) + 8"},
	}, nil},
	{"there is another table at the end", unstored, []edit{
		{engineFile, "return bytes.NewReader(buf.Bytes())", "buf.WriteString(\"future\")\n\treturn bytes.NewReader(buf.Bytes())"},
	}, nil},
	{"keys have another formula", dropInOnly, []edit{
		{engineFile, "\ts.Write(magic)\n", "\ts.Write(magic)\n\ts.Write(magic)\n"},
	}, nil},
	{"a setting is of an unknown kind", dropInOnly, []edit{
		{"config.go", "\tensureTermination     bool\n", "\tensureTermination     bool\n\tplan *struct{ a int }\n"},
	}, nil},
	{"errors of Get are ignored", dropInOnly, []edit{
		{engineFile, "Get(fileCacheKey(module))\n", "Get(fileCacheKey(module))\n\terr = nil\n"},
	}, nil},
	{"entries that can't be read are misses", dropInOnly, []edit{
		{engineFile, "\tif err != nil {\n\t\thit = false\n", "\tif err != nil {\n\t\thit, err = false, nil\n"},
	}, nil},
	{"every unexported name is another", nothing, nil, nil},
	{"engines have another lock", noSharing, []edit{
		{"internal/engine/wazevo/engine.go", "\t\tmux                   sync.RWMutex\n", "\t\tmux struct{ sync.RWMutex }\n"},
	}, nil},
	{"all code is looked up on another goroutine", everything, []edit{
		{engineFile, "cached, hit, err = e.fileCache.Get(fileCacheKey(module))\n", "done := make(chan struct{})\n" +
			"\tgo func() {\n\t\tdefer close(done)\n\t\tcached, hit, err = e.fileCache.Get(fileCacheKey(module))\n\t}()\n\t<-done\n"},
	}, nil},
	{"errors of Get are told apart", dropInOnly, []edit{
		{engineFile, "e.fileCache.Get(fileCacheKey(module))\n", "e.fileCache.Get(fileCacheKey(module))\n" +
			"\tif err != nil {\n\t\terr = fmt.Errorf(\"the compilation cache is not available: %v\", err)\n\t}\n"},
	}, nil},
	{"what was read is added", everything, []edit{
		{engineFile, "\tcm, staleCache, err = deserializeCompiledModule(e.wazeroVersion, cached)\n", "\tcm, staleCache, err = deserializeCompiledModule(e.wazeroVersion, cached)\n" +
			"\tif err == nil && !staleCache {\n\t\terr = e.fileCache.Add(fileCacheKey(module), serializeCompiledModule(e.wazeroVersion, cm))\n\t}\n"},
	}, nil},
	{"code is added before it is in memory", everything, []edit{
		{"?" + engineFile, "\te.addCompiledModuleToMemory(module, cm)\n\tif !module", "\tdefer e.addCompiledModuleToMemory(module, cm)\n\tif !module"},
		{"?" + engineFile, "\tc = e.addCompiledModuleToMemory(module, cm)\n", "\tc = cm\n\tdefer func() { c = e.addCompiledModuleToMemory(module, cm) }()\n"},
	}, nil},
	{"code is added later", late, []edit{
		{engineFile, "\terr = e.fileCache.Add(fileCacheKey(module), serializeCompiledModule(e.wazeroVersion, cm))\n", "\tcontent := serializeCompiledModule(e.wazeroVersion, cm)\n" +
			"\tkey := fileCacheKey(module)\n\ttime.AfterFunc(50*time.Millisecond, func() { _ = e.fileCache.Add(key, content) })\n"},
		{engineFile, "\t\"io\"\n", "\t\"io\"\n\t\"time\"\n"},
	}, nil},
	{"compiling depends on the context", dropInOnly, []edit{
		{runtimeFile, "internal.AssignModuleID(", "_ = ctx.Value(intervalKey{})\n\tinternal.AssignModuleID("},
		{runtimeFile, "\ntype runtime struct", "\ntype intervalKey struct{}\n\ntype runtime struct"},
	}, nil},
	{"keys have another formula where contexts end instances", dropInOnly, termination, []string{"-close"}},
	{"keys have the same formula elsewhere", everything, termination, nil},
	{"catch tables have more fields", lessCatching, []edit{
		{engineFile, "\t\tbuf.Write(u32.LeBytes(uint32(len(clauses))))\n", "\t\tbuf.Write([]byte{1, 2, 3, 4, 5})\n\t\tbuf.Write(u32.LeBytes(uint32(len(clauses))))\n"},
		{engineFile, "\t\tfor i := uint32(0); i < tableLen; i++ {\n", "\t\tfor i := uint32(0); i < tableLen; i++ {\n" +
			"\t\t\tif _, err = io.ReadFull(reader, eightBytes[:5]); err != nil {\n\t\t\t\treturn nil, false, err\n\t\t\t}\n"},
	}, []string{"-exceptions"}},
}

// own panics if files are others than wazero's.
const own = "\nfunc own(files filecache.Cache) filecache.Cache {\n" +
	"\tif files != nil && fmt.Sprintf(\"%T\", files) != \"*filecache.fileCache\" {\n\t\tpanic(\"whose files are these?\")\n\t}\n\treturn files\n}\n"

// termination adds a word of the context to the key, if contexts end instances.
var termination = []edit{
	{runtimeFile, "listeners, r.ensureTermination)\n\tif err", "listeners, r.ensureTermination)\n" +
		"\tif r.ensureTermination {\n\t\tn, _ := ctx.Value(intervalKey{}).(uint64)\n" +
		"\t\tinternal.ID = sha256.Sum256(binary.LittleEndian.AppendUint64(internal.ID[:], n))\n\t}\n\tif err"},
	{runtimeFile, "\ntype runtime struct", "\ntype intervalKey struct{}\n\ntype runtime struct"},
	{runtimeFile, "\t\"context\"\n", "\t\"context\"\n\t\"crypto/sha256\"\n\t\"encoding/binary\"\n"},
	{runtimeFile, "CompileModule(ctx context.Context, binary []byte) (CompiledModule", "CompileModule(ctx context.Context, wasm []byte) (CompiledModule"},
	{runtimeFile, "binaryformat.DecodeModule(binary, ", "binaryformat.DecodeModule(wasm, "},
	{runtimeFile, "AssignModuleID(binary, ", "AssignModuleID(wasm, "},
}

// TestShapes builds the program against copies of the wazero in use that are
// patched to look different. The program must run as if it had no cache, in the
// parts that modcache doesn't know, and hear of it once. Set MODCACHE_MATRIX for all
// shapes rather than a few.
func TestShapes(t *testing.T) {
	if testing.Short() {
		t.Skip("builds many programs")
	}
	dir, err := wasmtest.WazeroDir()
	if err != nil {
		t.Skipf("NOT TESTED: %v", err)
	}
	engine, err := os.ReadFile(filepath.Join(dir, engineFile))
	require.NoError(t, err)
	catches := strings.Contains(string(engine), "catchClauseTable")
	for i, shape := range shapes {
		if i%5 > 0 && os.Getenv("MODCACHE_MATRIX") == "" || shape.left == lessCatching && !catches {
			continue
		}
		t.Run(shape.name, func(t *testing.T) {
			t.Parallel()
			patched := patch(t, dir, shape.edits)
			// Without -trimpath, each build would compile all of wazero.
			p := build(t, "replace "+wazeroModule+" => "+patched, false, "-trimpath")
			// Its code is compiled from another spelling, and it is validated by itself.
			p.add(t, append(wasmtest.Const(9), wasmtest.CustomSection("note", []byte("x"))...), 9)
			if shape.left == lessCatching {
				p.add(t, catching, 42)
			}
			cold, warm := p.run(t, shape.args...), p.run(t, shape.args...)
			for _, r := range []report{cold, warm} {
				p.requireRight(t, r)
				// The sources have no checksum, so nothing less than the program itself tells them from others.
				require.Contains(t, r.Engine, "executable ")
				require.Equal(t, shape.left == nothing, r.Unknown, r.Attach)
			}
			requireLeft(t, p, shape.left, cold, warm)
		})
	}
}

// catching is a module whose export f has a try_table, and returns 42.
var catching = []byte("\x00asm\x01\x00\x00\x00\x01\x08\x02\x60\x00\x01\x7f\x60\x00\x00\x03\x02\x01\x00\x0d\x03\x01\x00\x01\x07\x05\x01\x01f\x00\x00" +
	"\x0a\x12\x01\x10\x00\x02\x40\x1f\x40\x02\x00\x00\x00\x02\x00\x0b\x0b\x41\x2a\x0b")

func requireLeft(t *testing.T, p *program, left string, cold, warm report) {
	t.Helper()
	modules := len(p.modules)
	if left == nothing {
		for _, r := range []report{cold, warm} {
			for name, w := range r.ways() {
				require.Len(t, w.Degraded, 1, name)
				require.Zero(t, w.Metrics.Lookups+w.Metrics.Compiles, name)
			}
		}
		return
	}
	if left == unstored || left == late {
		for _, r := range []report{cold, warm} {
			require.NotEmpty(t, r.Runtime.Degraded)
			require.Zero(t, r.Runtime.Metrics.Stubbed)
			if left == unstored {
				require.Len(t, r.DropIn.Degraded, 1)
				require.Zero(t, r.DropIn.Metrics.Hits+r.Runtime.Metrics.Hits)
			}
		}
		return
	}
	if left == lessCatching {
		for name, w := range warm.ways() {
			require.Len(t, w.Degraded, 1, name)
			require.Zero(t, w.Metrics.Corrupt+w.Metrics.StoreErrors, name)
		}
		require.EqualValues(t, 2, warm.DropIn.Metrics.Misses)
		require.EqualValues(t, 1, warm.Runtime.Metrics.Misses)
		require.EqualValues(t, 1, warm.Runtime.Metrics.Compiles, "it is compiled once for both runtimes")
		require.EqualValues(t, modules-1, warm.Runtime.Metrics.Hits)
		return
	}
	for name, w := range warm.ways() {
		require.Zero(t, w.Metrics.Misses+w.Metrics.Compiles, name)
	}
	require.Empty(t, warm.DropIn.Degraded)
	require.EqualValues(t, 2*modules, warm.DropIn.Metrics.Hits)
	degraded, stubbed, hits := 0, modules, modules
	switch left {
	case noSharing:
		stubbed, hits = 2*modules, 2*modules // each runtime by itself
		degraded = 1
	case dropInOnly:
		degraded, stubbed = 1, 0
		hits = 2 * modules // each runtime by itself
	}
	require.Len(t, warm.Runtime.Degraded, degraded)
	require.EqualValues(t, stubbed, warm.Runtime.Metrics.Stubbed)
	require.EqualValues(t, hits, warm.Runtime.Metrics.Hits)
}

// patch copies the code of a module without its tests, and edits the copy. Without any
// edits, it renames all that isn't exported.
func patch(t *testing.T, module string, edits []edit) (dir string) {
	t.Helper()
	dir = t.TempDir()
	texts := make(map[string]string)
	err := filepath.WalkDir(module, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(module, path)
		switch base := d.Name(); {
		case d.IsDir() && (base == "testdata" || base == "example" || base == "examples" || base == "integration_test"):
			return fs.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(dir, name), 0o700)
		case base != "go.mod" && filepath.Ext(base) != ".go" && filepath.Ext(base) != ".s" || strings.HasSuffix(base, "_test.go"):
			return nil
		}
		b, err := os.ReadFile(path)
		texts[filepath.ToSlash(name)] = string(b)
		return err
	})
	require.NoError(t, err)
	for _, e := range edits {
		file, optional := strings.CutPrefix(e.file, "?")
		if e.file = file; optional && !strings.Contains(texts[file], e.old) {
			continue
		}
		require.Contains(t, texts[e.file], e.old, "wazero's %s has changed, so must this test", e.file)
		texts[e.file] = strings.ReplaceAll(texts[e.file], e.old, e.new)
	}
	if len(edits) == 0 {
		rename(t, texts)
	}
	for name, text := range texts {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	return dir
}

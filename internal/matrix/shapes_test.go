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

// edit replaces text in one of wazero's files.
type edit struct{ file, old, new string }

const (
	cacheFile  = "cache.go"
	engineFile = "internal/engine/wazevo/engine_cache.go"
)

// What is left of modcache in a wazero of another shape.
const (
	nothing    = "nothing"
	dropInOnly = "drop-in only"
	noStubs    = "no stubs"
	everything = "everything"
)

// shapes are wazeros that might be released one day.
var shapes = []struct {
	name  string
	left  string
	edits []edit
}{
	{"the field has another name", nothing, []edit{
		{cacheFile, "\tfileCache filecache.Cache", "\tfiles filecache.Cache"},
		{cacheFile, "c.fileCache", "c.files"},
	}},
	{"the field is a struct", nothing, []edit{
		{cacheFile, "\tfileCache filecache.Cache", "\tfileCache struct{ filecache.Cache }"},
		{cacheFile, "features, c.fileCache)", "features, c.fileCache.Cache)"},
		{cacheFile, "c.fileCache =", "c.fileCache.Cache ="},
	}},
	{"files have another method", nothing, []edit{
		{"internal/filecache/compilationcache.go", "\tDelete(key Key) (err error)", "\tDelete(key Key) (err error)\n\tLen() int"},
		{"internal/filecache/file_cache.go", "// fileCache persists", "func (fc *fileCache) Len() int { return 0 }\n\n// fileCache persists"},
	}},
	{"Get has another signature", nothing, []edit{
		{"internal/filecache/compilationcache.go", "Get(key Key) (content", "Get(key Key, size int) (content"},
		{"internal/filecache/file_cache.go", "Get(key Key) (content", "Get(key Key, size int) (content"},
		{engineFile, "Get(fileCacheKey(module))", "Get(fileCacheKey(module), 0)"},
	}},
	{"engines are kept elsewhere", nothing, []edit{
		{cacheFile, "engs ", "engines "},
		{cacheFile, "c.engs", "c.engines"},
	}},
	{"the magic number changed", nothing, []edit{
		{engineFile, "{'W', 'A', 'Z', 'E', 'V', 'O'}", "{'W', 'A', 'Z', 'E', 'V', '2'}"},
	}},
	{"the header has another field", nothing, []edit{
		{engineFile, "buf.WriteString(wazeroVersion)", "buf.WriteString(wazeroVersion)\n\tbuf.Write(u32.LeBytes(7))"},
		{engineFile, "len(wazeroVersion) + 4", "len(wazeroVersion) + 8"},
	}},
	{"there is another table at the end", nothing, []edit{
		{engineFile, "return bytes.NewReader(buf.Bytes())", "buf.WriteString(\"future\")\n\treturn bytes.NewReader(buf.Bytes())"},
	}},
	{"compiling panics", nothing, []edit{
		{engineFile, "\ts := sha256.New()", "\tif len(m.CodeSection) == 1 {\n\t\tpanic(\"no\")\n\t}\n\ts := sha256.New()"},
	}},
	{"keys have another formula", dropInOnly, []edit{
		{engineFile, "\ts.Write(magic)\n", "\ts.Write(magic)\n\ts.Write(magic)\n"},
	}},
	{"a setting is of an unknown kind", dropInOnly, []edit{
		{"config.go", "\tensureTermination     bool\n", "\tensureTermination     bool\n\tplan *struct{ a int }\n"},
	}},
	{"errors of Get are ignored", noStubs, []edit{
		{engineFile, "Get(fileCacheKey(module))\n", "Get(fileCacheKey(module))\n\terr = nil\n"},
	}},
	{"entries that can't be read are misses", noStubs, []edit{
		{engineFile, "\tif err != nil {\n\t\thit = false\n", "\tif err != nil {\n\t\thit, err = false, nil\n"},
	}},
	{"instances have no CodeCloser", everything, []edit{
		{"internal/wasm/module_instance.go", "CodeCloser", "Closer1"},
		{"internal/wasm/store.go", "CodeCloser", "Closer1"},
		{"runtime.go", "CodeCloser", "Closer1"},
	}},
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
	for i, shape := range shapes {
		if i%5 > 0 && os.Getenv("MODCACHE_MATRIX") == "" {
			continue
		}
		t.Run(shape.name, func(t *testing.T) {
			patched := patch(t, dir, shape.edits)
			// Without -trimpath, each build would compile all of wazero.
			p := build(t, "replace "+wazeroModule+" => "+patched, false, "-trimpath")
			cold, warm := p.run(t), p.run(t)
			for _, r := range []report{cold, warm} {
				if shape.name != "compiling panics" {
					p.requireRight(t, r)
				}
				// The sources have no checksum, so nothing less than the program itself tells them from others.
				require.Contains(t, r.Engine, "executable ")
				require.Equal(t, shape.left == nothing, r.Unknown, r.Attach)
			}
			requireLeft(t, p, shape.left, cold, warm)
		})
	}
}

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
	for name, w := range warm.ways() {
		require.Zero(t, w.Metrics.Misses+w.Metrics.Compiles, name)
	}
	require.Empty(t, warm.DropIn.Degraded)
	require.EqualValues(t, 2*modules, warm.DropIn.Metrics.Hits)
	degraded, stubbed, hits := 1, 0, modules
	switch left {
	case everything:
		degraded, stubbed = 0, modules
	case dropInOnly:
		hits = 2 * modules // each runtime by itself
	}
	require.Len(t, warm.Runtime.Degraded, degraded)
	require.EqualValues(t, stubbed, warm.Runtime.Metrics.Stubbed)
	require.EqualValues(t, hits, warm.Runtime.Metrics.Hits)
}

// patch copies the code of a module without its tests, and edits the copy.
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
		require.Contains(t, texts[e.file], e.old, "wazero's %s has changed, so must this test", e.file)
		texts[e.file] = strings.ReplaceAll(texts[e.file], e.old, e.new)
	}
	for name, text := range texts {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	return dir
}

package e2e

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// snippetPackages are what a fragment in a document may use without importing it.
var snippetPackages = []string{
	"strings",
	"bytes", "context", "errors", "fmt", "io", "log", "log/slog", "net/http", "os", "path/filepath", "testing", "time",
	"github.com/tetratelabs/wazero", "github.com/tetratelabs/wazero/api", "github.com/tetratelabs/wazero/experimental",
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1",
	"github.com/modcache/modcache", "github.com/modcache/modcache/debugpage",
	"github.com/modcache/modcache/modcachetest", "github.com/modcache/modcache/remote",
}

// nestedModules are those whose code is compiled by their own tests, as the root's can't import it.
var nestedModules = regexp.MustCompile(`\b(blob|oci|modcacheprom|modcacheotel)\.`)

// snippetNames are what it may use without declaring it.
const snippetNames = `
var (
	ctx   context.Context
	dir   string
	wasm  []byte
	cache *modcache.Cache
	store modcache.Store
	ring  remote.Keyring
	creds func(context.Context) (remote.Credentials, error)
)
`

// snippet is a block of Go in a document.
type snippet struct {
	file string
	line int // of its first line
	text string
}

var fence = regexp.MustCompile("(?m)^([ \t]*)```go[ \t]*\n((?s:.*?))^[ \t]*```[ \t]*$")

func snippetsIn(file string, text []byte) (found []snippet) {
	for _, at := range fence.FindAllSubmatchIndex(text, -1) {
		indent := string(text[at[2]:at[3]])
		code := strings.ReplaceAll("\n"+string(text[at[4]:at[5]]), "\n"+indent, "\n")[1:]
		found = append(found, snippet{file, 1 + bytes.Count(text[:at[4]], []byte("\n")), code})
	}
	return found
}

// source returns a file of Go. What begins with a package clause is one; all else is the
// body of a function that may return an error.
func (s snippet) source() string {
	line := fmt.Sprintf("//line %s:%d\n", s.file, s.line)
	if strings.HasPrefix(s.text, "package ") {
		return line + s.text
	}
	body := snippetNames + "func _() error {\n" + line + s.text + "\nreturn nil\n}\n"
	f, err := parser.ParseFile(token.NewFileSet(), "", "package snippet\n"+body, 0)
	if err != nil {
		return "package snippet\n" + body // for check to report
	}
	var imports strings.Builder
	for _, p := range snippetPackages {
		if slices.ContainsFunc(f.Unresolved, func(id *ast.Ident) bool { return id.Name == path.Base(p) }) {
			fmt.Fprintf(&imports, "import %q\n", p)
		}
	}
	return "package snippet\n" + imports.String() + body
}

// check compiles it. A fragment may leave variables unused.
func (s snippet) check(imp types.Importer) (errs []error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "", s.source(), 0)
	if err != nil {
		return []error{err}
	}
	config := types.Config{Importer: imp, Error: func(err error) {
		if f.Name.Name != "snippet" || !strings.HasPrefix(err.(types.Error).Msg, "declared and not used") {
			errs = append(errs, err)
		}
	}}
	_, _ = config.Check(f.Name.Name, fset, []*ast.File{f}, nil)
	return errs
}

// compiledPackages imports what the go command has compiled.
func compiledPackages(t *testing.T) types.Importer {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("NOT TESTED: snippets, which needs the go tool")
	}
	cmd := exec.Command("go", append([]string{"list", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}"}, snippetPackages...)...)
	cmd.Dir, cmd.Stderr = moduleRoot(t), os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err)
	files := map[string]string{}
	for line := range strings.Lines(string(out)) {
		name, file, _ := strings.Cut(strings.TrimSpace(line), "\t")
		files[name] = file
	}
	return importer.ForCompiler(token.NewFileSet(), "gc", func(name string) (io.ReadCloser, error) {
		return os.Open(files[name])
	})
}

// TestSnippetsCompile compiles each block of Go in a document as a reader pastes it:
// a program as it is, anything else as the body of a function.
func TestSnippetsCompile(t *testing.T) {
	imp, root, n := compiledPackages(t), moduleRoot(t), 0
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "testdata"):
			return fs.SkipDir
		case filepath.Ext(name) != ".md":
			return nil
		case filepath.Base(name) == "embedders.md" || isNested(t, filepath.Dir(name)):
			return nil // needs the libraries that it is about; the tests of the nested module compile the like
		}
		text, err := os.ReadFile(name)
		rel, _ := filepath.Rel(root, name)
		for _, s := range snippetsIn(filepath.ToSlash(rel), text) {
			if nestedModules.MatchString(s.text) {
				continue
			}
			n++
			for _, err := range s.check(imp) {
				t.Error(err)
			}
		}
		return err
	})
	require.NoError(t, err)
	require.NotZero(t, n, "no document has a block of Go")
}

// isNested reports whether a directory is that of a module of its own.
func isNested(t *testing.T, dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil && dir != moduleRoot(t)
}

// TestSnippetsThatDontCompile sees it fail.
func TestSnippetsThatDontCompile(t *testing.T) {
	imp := compiledPackages(t)
	for text, want := range map[string]string{
		"r := wazero.NewRuntime(ctx)\nr := 1\n":                                 "doc.md:8: no new variables",
		"c, err := modcache.Open(\"\", nil)\nc.Shut()\n":                        "doc.md:8: c.Shut undefined",
		"modcache.NewMemory(&modcache.MemoryOptions{\n":                         "doc.md:9:",
		"x := unheardOf\n":                                                      "undefined: unheardOf",
		"defer cache.Close(ctx)\nunused := len(wasm)\n":                         "",
		"package main\n\nfunc main() { x := 1 }\n":                              "declared and not used: x",
		"if true {\n\treturn errors.New(\"x\")\n}\nvar x, y = 1, time.Second\n": "",
	} {
		all := fmt.Sprint(snippetsIn("doc.md", []byte("# A\n\nText.\n\n  more\n```go\n"+text+"```\n"))[0].check(imp))
		if want == "" {
			require.Equal(t, "[]", all, text)
		} else {
			require.Contains(t, all, want, text)
		}
	}
}

var tableRow, tablePath = regexp.MustCompile(`(?m)^\| *(` + "`" + `[^|]*)\|`), regexp.MustCompile("`([^`]+)`")

// TestTableOfFiles compares the first column of the table in CONTRIBUTING.md with what
// there is: each file of the root that isn't a test, and each package below internal, which may
// stand for those below it.
func TestTableOfFiles(t *testing.T) {
	root := moduleRoot(t)
	text, err := os.ReadFile(filepath.Join(root, "CONTRIBUTING.md"))
	require.NoError(t, err)
	listed := map[string]int{}
	for _, row := range tableRow.FindAllSubmatch(text, -1) {
		for _, m := range tablePath.FindAllSubmatch(row[1], -1) {
			name := strings.TrimSuffix(string(m[1]), "/")
			listed[name]++
			if _, err := os.Stat(filepath.Join(root, filepath.FromSlash(name))); err != nil {
				t.Errorf("CONTRIBUTING.md lists %s, which doesn't exist", name)
			}
		}
	}
	for _, pattern := range []string{"*.go", "internal/*"} {
		names, err := fs.Glob(os.DirFS(root), pattern)
		require.NoError(t, err)
		require.NotEmpty(t, names)
		for _, name := range names {
			if n := listed[name]; n != 1 && !strings.HasSuffix(name, "_test.go") {
				t.Errorf("CONTRIBUTING.md lists %s %d times", name, n)
			}
		}
	}
}

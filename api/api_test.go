// Package api holds the exported names of every public package, one a line, in a file for
// each package: modcache.txt, remote.txt, and so on. So it does of internal packages that modules with versions of their own
// import: internal-bounded.txt, and so on. CONTRIBUTING.md says what may change.
package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	// The go command reuses a test's result until what the test imports has changed.
	_ "github.com/modcache/modcache"
	_ "github.com/modcache/modcache/debugpage"
	_ "github.com/modcache/modcache/internal/bounded"
	_ "github.com/modcache/modcache/internal/brief"
	_ "github.com/modcache/modcache/internal/flight"
	_ "github.com/modcache/modcache/internal/lanes"
	_ "github.com/modcache/modcache/internal/unanswered"
	_ "github.com/modcache/modcache/internal/weburl"
	_ "github.com/modcache/modcache/modcachetest"
	_ "github.com/modcache/modcache/remote"
)

var update = flag.Bool("update", false, "write the files anew")

const module = "github.com/modcache/modcache"

// TestFirstScreen fails if what go doc lists first isn't what a newcomer needs first: it takes blocks in the
// order of the names of files, and then single constants and variables by their names.
func TestFirstScreen(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command to ask for the documentation")
	}
	text, err := exec.Command("go", "doc", "-short", module).Output()
	require.NoError(t, err)
	require.Regexp(t, `^const DefaultDiskMaxBytes .*\nconst DefaultLayerTimeout .*\n(const SlotDropped.*\n)?var ErrMiss `, string(text))
}

// TestAPI fails if an exported name came, went or changed without its line.
func TestAPI(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command to ask for the packages")
	}
	want, err := filepath.Glob("*.txt")
	require.NoError(t, err)
	for name, lines := range publicFaces(t) {
		want = slices.DeleteFunc(want, func(file string) bool { return file == name })
		if *update {
			require.NoError(t, os.WriteFile(name, []byte(lines), 0o644))
			continue
		}
		old, err := os.ReadFile(name)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if gone, added := difference(string(old), lines); len(gone)+len(added) > 0 {
			t.Errorf("api/%s differs from the code. If you meant it: go test ./api -update\n%s%s", name, gone, added)
		}
	}
	for _, file := range want {
		if *update {
			require.NoError(t, os.Remove(file))
			continue
		}
		t.Errorf("api/%s belongs to no package. If you meant it: go test ./api -update", file)
	}
}

// difference returns the lines that only one of two sorted texts has, with a sign in front.
func difference(before, after string) (gone, added string) {
	had, have := strings.SplitAfter(before, "\n"), strings.SplitAfter(after, "\n")
	for _, line := range had {
		if !slices.Contains(have, line) {
			gone += "- " + line
		}
	}
	for _, line := range have {
		if !slices.Contains(had, line) {
			added += "+ " + line
		}
	}
	return gone, added
}

// publicFaces returns the text for each package that programs outside of this module can
// import, and for those that other modules of this repository import, by file name. The packages come from the build
// cache, compiled.
func publicFaces(t *testing.T) map[string]string {
	apart := importedApart(t)
	list := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Name,Export,GoFiles", "./...")
	list.Dir = ".."
	out, err := list.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		t.Fatalf("%s: %s", err, exit.Stderr)
	}
	require.NoError(t, err)

	exports := make(map[string]string)
	var public []string
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var pkg struct {
			ImportPath, Name, Export string
			GoFiles                  []string
		}
		if err := decoder.Decode(&pkg); errors.Is(err, io.EOF) {
			break
		} else {
			require.NoError(t, err)
		}
		exports[pkg.ImportPath] = pkg.Export
		parts := strings.Split(pkg.ImportPath, "/")
		if isOurs(pkg.ImportPath) && pkg.Name != "main" && len(pkg.GoFiles) > 0 &&
			!slices.Contains(parts, "internal") && !slices.Contains(parts, "examples") || apart[pkg.ImportPath] {
			public = append(public, pkg.ImportPath)
		}
	}
	compiled := importer.ForCompiler(token.NewFileSet(), "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(exports[path])
	})
	files := make(map[string]string)
	for _, importPath := range public {
		pkg, err := compiled.Import(importPath)
		require.NoError(t, err)
		files[fileOf(importPath)] = face(pkg)
	}
	require.Contains(t, files, "modcache.txt")
	return files
}

// fileOf returns the name of a package's file.
func fileOf(importPath string) string {
	name := path.Base(importPath) + ".txt"
	if strings.Contains(importPath, "/internal/") {
		name = "internal-" + name
	}
	return name
}

// importedApart returns the internal packages that the modules import which programs import, and which have versions of
// their own: a program may have an older one of these beside a newer one of this module.
func importedApart(t *testing.T) map[string]bool {
	found := make(map[string]bool)
	for _, dir := range []string{"modcacheprom", "modcacheotel", "remote/oci", "remote/blob"} {
		files, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
			require.NoError(t, err)
			for _, spec := range parsed.Imports {
				if name, _ := strconv.Unquote(spec.Path.Value); strings.HasPrefix(name, module+"/internal/") {
					found[name] = true
				}
			}
		}
	}
	return found
}

// face returns the exported names of a package with their types, sorted.
func face(pkg *types.Package) string {
	lines := make(map[string]bool)
	add := func(format string, args ...any) {
		for i, arg := range args {
			switch typ := arg.(type) {
			case *types.Signature:
				args[i] = strings.TrimPrefix(types.TypeString(typ, nameOf(pkg)), "func")
			case types.Type:
				args[i] = types.TypeString(typ, nameOf(pkg))
			}
		}
		lines[fmt.Sprintf(format, args...)+"\n"] = true
	}
	for _, name := range pkg.Scope().Names() {
		object := pkg.Scope().Lookup(name)
		if !object.Exported() {
			continue
		}
		switch object := object.(type) {
		case *types.Const:
			add("const %s %s = %s", name, object.Type(), object.Val().ExactString())
		case *types.Func:
			add("func %s%s", name, object.Type())
		case *types.TypeName:
			if named, ok := object.Type().(*types.Named); ok && !object.IsAlias() {
				addType(named, add)
			} else {
				add("type %s = %s", name, types.Unalias(object.Type()))
			}
		case *types.Var:
			add("var %s %s", name, object.Type())
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(lines)), "")
}

// addType adds a type, and the fields and methods that it has for those who use it.
func addType(named *types.Named, add func(string, ...any)) {
	name, kind := types.TypeString(named, nameOf(named.Obj().Pkg())), "struct"
	switch under := named.Underlying().(type) {
	case *types.Struct:
		addFields(name, under, add)
	case *types.Interface:
		kind = "interface"
		for method := range under.ExplicitMethods() {
			if method.Exported() {
				add("type %s, method %s%s", name, method.Name(), method.Type())
			} else {
				add("type %s, can't be implemented elsewhere", name)
			}
		}
		for embedded := range under.EmbeddedTypes() {
			add("type %s, embeds %s", name, embedded)
		}
	default:
		kind = types.TypeString(under, nameOf(named.Obj().Pkg()))
	}
	if !types.Comparable(named) {
		kind += " (not comparable)"
	}
	add("type %s %s", name, kind)

	// The methods of the pointer are those of the value and more. What somebody else's
	// embedded type brings may change without us: its field is listed instead.
	if types.IsInterface(named) {
		return
	}
	for selection := range types.NewMethodSet(types.NewPointer(named)).Methods() {
		method := selection.Obj().(*types.Func)
		if !method.Exported() || !isOurs(method.Pkg().Path()) {
			continue
		}
		on := "value"
		if _, ok := method.Signature().Recv().Type().(*types.Pointer); ok {
			on = "pointer"
		}
		add("type %s, %s method %s%s", name, on, method.Name(), method.Type())
	}
}

// addFields adds the exported fields of a struct, those of unexported structs that are
// embedded in it, and what else is embedded in it and has methods.
func addFields(name string, under *types.Struct, add func(string, ...any)) {
	for i := range under.NumFields() {
		field, tag := under.Field(i), under.Tag(i)
		inner, isStruct := field.Type().Underlying().(*types.Struct)
		switch {
		case field.Exported() && tag != "":
			add("type %s, field %s %s `%s`", name, field.Name(), field.Type(), tag)
		case field.Exported():
			add("type %s, field %s %s", name, field.Name(), field.Type())
		case field.Embedded() && isStruct:
			addFields(name, inner, add)
		case field.Embedded():
			add("type %s, embeds %s", name, types.Unalias(field.Type()))
		}
	}
}

// nameOf writes other packages by their name, and pkg not at all.
func nameOf(pkg *types.Package) types.Qualifier {
	return func(other *types.Package) string {
		if other == pkg {
			return ""
		}
		return other.Name()
	}
}

func isOurs(path string) bool { return path == module || strings.HasPrefix(path, module+"/") }

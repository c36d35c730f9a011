package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	wazeroPath = "github.com/tetratelabs/wazero"
	ourPath    = "github.com/modcache/modcache"
	swapPath   = ourPath + "/bench/embedders/swap"
)

// build compiles this program, with package swap wherever a library makes a runtime of wazero's: as
// if each took a constructor. The libraries are copied into tmp for that.
func build(ctx context.Context, tmp, program string) error {
	list := exec.CommandContext(ctx, "go", "list", "-deps", "-json=ImportPath,Dir,GoFiles,Imports,Module", ".")
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		return fmt.Errorf("list the libraries: %w", err)
	}
	copies := map[string]string{} // of modules
	for packages := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath, Dir  string
			GoFiles, Imports []string
			Module           struct{ Path, Dir string }
		}
		if err := packages.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		if p.Module.Path == wazeroPath || within(p.ImportPath, ourPath) || !slices.Contains(p.Imports, wazeroPath) {
			continue
		}
		for _, name := range p.GoFiles {
			file := filepath.Join(p.Dir, name)
			swapped, err := swapRuntimes(file)
			if err != nil {
				return err
			}
			if swapped == nil {
				continue
			}
			if copies[p.Module.Path] == "" {
				copied := filepath.Join(tmp, fmt.Sprint("module", len(copies)))
				if err := os.CopyFS(copied, os.DirFS(p.Module.Dir)); err != nil {
					return err
				}
				copies[p.Module.Path] = copied
			}
			inside, _ := filepath.Rel(p.Module.Dir, file)
			target := filepath.Join(copies[p.Module.Path], inside)
			if err := errors.Join(os.Remove(target), os.WriteFile(target, swapped, 0o600)); err != nil {
				return err
			}
		}
	}
	return buildWith(ctx, copies, filepath.Join(tmp, "swapped.mod"), program)
}

// buildWith compiles this program with copies of some modules. The file of requirements
// is another one for that.
func buildWith(ctx context.Context, copies map[string]string, modfile, program string) error {
	for from, to := range map[string]string{"go.mod": modfile, "go.sum": strings.TrimSuffix(modfile, ".mod") + ".sum"} {
		b, err := os.ReadFile(from)
		if err != nil {
			return fmt.Errorf("run this in bench/embedders: %w", err)
		}
		if err := os.WriteFile(to, b, 0o600); err != nil {
			return err
		}
	}
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	edit := []string{"mod", "edit", "-replace=" + ourPath + "=" + filepath.Join(here, "..", "..")}
	for module, dir := range copies {
		edit = append(edit, "-replace="+module+"="+dir)
	}
	for _, args := range [][]string{append(edit, modfile), {"build", "-mod=mod", "-modfile", modfile, "-o", program, "."}} {
		if out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("build with copies of the libraries: %w\n%s", err, out)
		}
	}
	return nil
}

func within(path, module string) bool { return path == module || strings.HasPrefix(path, module+"/") }

// swapRuntimes returns a source file with swap's constructors in place of wazero's, line for line;
// nil if it uses none.
func swapRuntimes(name string) ([]byte, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, text, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	wazero := ""
	for _, spec := range f.Imports {
		if path, _ := strconv.Unquote(spec.Path.Value); path != wazeroPath {
			continue
		}
		wazero = "wazero"
		if spec.Name != nil {
			wazero = spec.Name.Name
		}
	}
	var edited bytes.Buffer
	end := fset.Position(f.Name.End()).Offset
	edited.Write(text[:end])
	edited.WriteString("; import modcacheswap " + strconv.Quote(swapPath))
	found := false
	ast.Inspect(f, func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		if !ok || s.Sel.Name != "NewRuntime" && s.Sel.Name != "NewRuntimeWithConfig" {
			return true
		}
		if id, ok := s.X.(*ast.Ident); ok && id.Name == wazero {
			found = true
			edited.Write(text[end:fset.Position(id.Pos()).Offset])
			edited.WriteString("modcacheswap")
			end = fset.Position(id.End()).Offset
		}
		return true
	})
	if !found {
		return nil, nil
	}
	edited.Write(text[end:])
	fmt.Fprintf(&edited, "\nvar _ %s.Runtime // in case that nothing else needs the import\n", wazero)
	return edited.Bytes(), nil
}

package main

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// findModules returns the files that operands name: a file as it is, and
// everything that ends in .wasm below a directory.
func findModules(ctx context.Context, operands []string) ([]string, error) {
	var files []string
	seen := make(map[string]bool)
	add := func(name string) {
		if clean := filepath.Clean(name); !seen[clean] {
			seen[clean] = true
			files = append(files, clean)
		}
	}
	for _, operand := range operands {
		fi, err := os.Stat(operand)
		if err != nil {
			return nil, err
		}
		if !fi.IsDir() {
			add(operand)
			continue
		}
		before := len(seen)
		// The slash makes it walk into a directory behind a symbolic link.
		err = filepath.WalkDir(operand+string(filepath.Separator), func(name string, d fs.DirEntry, err error) error {
			if err != nil || ctx.Err() != nil {
				return cmp.Or(err, ctx.Err())
			}
			if strings.EqualFold(filepath.Ext(name), ".wasm") && isFile(name, d) {
				add(name)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if len(seen) == before {
			return nil, fmt.Errorf("no file below %s ends in .wasm; name the modules themselves", operand)
		}
	}
	return files, nil
}

// isFile reports whether an entry of a directory is a regular file, or a link to one.
func isFile(name string, d fs.DirEntry) bool {
	if d.Type()&fs.ModeSymlink == 0 {
		return d.Type().IsRegular()
	}
	fi, err := os.Stat(name)
	return err == nil && fi.Mode().IsRegular()
}

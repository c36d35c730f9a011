package main

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// TestProcesses runs the program twice: go-sqlite3 compiles once per process.
func TestProcesses(t *testing.T) {
	program, dir := filepath.Join(t.TempDir(), "sqlite.exe"), filepath.Join(t.TempDir(), "cache")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		`^SQLite was compiled in .*\none\+two\+three = 6\n$`,
		`^SQLite was loaded from the cache in .*\none\+two\+three = 6\n$`,
	} {
		out, err := exec.CommandContext(t.Context(), program, "-dir", dir).CombinedOutput()
		if err != nil || !regexp.MustCompile(want).Match(out) {
			t.Fatalf("%v\n%s\nshould match %s", err, out, want)
		}
		t.Logf("%s", out)
	}
}

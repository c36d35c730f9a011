package main

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// TestProcesses runs the program twice: the second loads what the first compiled.
func TestProcesses(t *testing.T) {
	program, dir := filepath.Join(t.TempDir(), "extism.exe"), filepath.Join(t.TempDir(), "cache")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{`^the plugin returns 42; compiled in .*\n$`, `^the plugin returns 42; loaded in .*\n$`} {
		out, err := exec.CommandContext(t.Context(), program, "-dir", dir).CombinedOutput()
		if err != nil || !regexp.MustCompile(want).Match(out) {
			t.Fatalf("%v\n%s\nshould match %s", err, out, want)
		}
		t.Logf("%s", out)
	}
}

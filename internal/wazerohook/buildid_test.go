package wazerohook

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBuildIDOfThisTest(t *testing.T) {
	f, err := os.Open(os.Args[0])
	require.NoError(t, err)
	defer f.Close()
	id := buildID(f)
	t.Log(id)
	require.Regexp(t, `^[\w-]{20}/[\w-]{20}/[\w-]{20}/[\w-]{20}$`, id)
	for _, bad := range []string{"", id[1:], id + "/", "/" + id, id[:70] + "?" + id[71:], id + id[20:41]} {
		require.False(t, isGoBuildID(bad), bad)
	}
	told, err := exec.Command("go", "tool", "buildid", os.Args[0]).Output()
	if err != nil {
		t.Skip("NOT TESTED: that the go command agrees:", err)
	}
	require.Equal(t, strings.TrimSpace(string(told)), id)
}

// TestBuildIDOfOtherSystems compares with what the go command reads from programs for each format and width.
func TestBuildIDOfOtherSystems(t *testing.T) {
	if testing.Short() {
		t.Skip("builds programs")
	}
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	build := func(target string, flags ...string) string {
		goos, goarch, _ := strings.Cut(target, "/")
		bin := filepath.Join(dir, "program")
		cmd := exec.Command("go", append(append([]string{"build", "-o", bin}, flags...), source)...)
		cmd.Env = append(os.Environ(), "GOOS="+goos, "GOARCH="+goarch, "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return bin
	}
	read := func(bin string) string {
		f, err := os.Open(bin)
		require.NoError(t, err)
		defer f.Close()
		return buildID(f)
	}
	for _, target := range []string{"linux/amd64", "linux/386", "linux/s390x", "windows/amd64", "darwin/arm64", "freebsd/amd64"} {
		seen := map[string]string{}
		for text, flags := range map[string][]string{"one": nil, "two": nil, "three": {"-ldflags=-s -w"}} {
			require.NoError(t, os.WriteFile(source, []byte("package main\n\nfunc main() { println(\""+text+"\") }\n"), 0o600))
			bin := build(target, flags...)
			want, err := exec.Command("go", "tool", "buildid", bin).Output()
			require.NoError(t, err)
			id := read(bin)
			require.Equal(t, strings.TrimSpace(string(want)), id, target)
			require.Empty(t, seen[id], "%s: another program has the same id", target)
			seen[id] = text
		}
		if target != "linux/amd64" && target != "windows/amd64" {
			continue
		}
		for _, said := range []string{"", "redacted", "a/b/c/d", strings.Repeat("x", 83)} {
			bin := build(target, "-ldflags=-buildid="+said)
			require.Empty(t, read(bin), "%s %s", target, said)
			sum, err := executable(bin)
			require.NoError(t, err)
			require.Len(t, sum, 64)
		}
	}
}

// TestBuildIDOfDamagedFiles reads files in which something is wrong.
func TestBuildIDOfDamagedFiles(t *testing.T) {
	whole, err := os.ReadFile(os.Args[0])
	require.NoError(t, err)
	whole = whole[:min(len(whole), 8<<10)]
	for n := 0; n < len(whole); n += 37 {
		_ = buildID(bytes.NewReader(whole[:n]))
	}
	for at := range 600 {
		for _, v := range []byte{0, 1, 0x7f, 0xff} {
			b := bytes.Clone(whole)
			b[at] = v
			_ = buildID(bytes.NewReader(b))
		}
	}
	require.Empty(t, buildID(bytes.NewReader([]byte("#!/bin/sh\n"))))
}

// TestBuildIDOfANote reads notes that others have made, for which a file can claim any length.
func TestBuildIDOfANote(t *testing.T) {
	id := strings.Join([]string{strings.Repeat("a", 20), strings.Repeat("b", 20), strings.Repeat("c", 20), strings.Repeat("d", 20)}, "/")
	note := func(owner string, textLen uint32, kind uint32) []byte {
		b := binary.LittleEndian.AppendUint32(nil, 4)
		b = binary.LittleEndian.AppendUint32(b, textLen)
		b = binary.LittleEndian.AppendUint32(b, kind)
		return append(append(b, owner...), id+"\x00"...)
	}
	program := func(headerSize uint16, size uint64, notes []byte) []byte {
		b := make([]byte, 64+56, 1<<17)
		copy(b, "\x7fELF\x02\x01")
		binary.LittleEndian.PutUint64(b[0x20:], 64)
		binary.LittleEndian.PutUint16(b[0x36:], headerSize)
		binary.LittleEndian.PutUint16(b[0x38:], 1)
		binary.LittleEndian.PutUint32(b[64:], 4)
		binary.LittleEndian.PutUint64(b[64+0x08:], uint64(len(b)))
		binary.LittleEndian.PutUint64(b[64+0x20:], size)
		b = append(b, notes...)
		return b[:cap(b)]
	}
	const goes, length = "Go\x00\x00", 83
	own := note(goes, length, 4)
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"as it should be":    {program(56, uint64(len(own)), own), id},
		"behind another":     {program(56, uint64(2*len(own)), append(note("GNU\x00", length, 4), own...)), id},
		"somebody else's":    {program(56, uint64(len(own)), note("GNU\x00", length, 4)), ""},
		"another kind":       {program(56, uint64(len(own)), note(goes, length, 3)), ""},
		"beyond its end":     {program(56, uint64(len(own)), note(goes, 1<<20, 4)), ""},
		"beyond 32 bits":     {program(56, uint64(len(own)), note(goes, 1<<32-1, 4)), ""},
		"too many":           {program(56, 1<<16+4, own), ""},
		"more than there is": {program(56, 1<<63, own), ""},
		"a short header":     {program(32, uint64(len(own)), own), ""},
	} {
		require.Equal(t, c.want, buildID(bytes.NewReader(c.file)), name)
	}
}

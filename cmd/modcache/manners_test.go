package main

import (
	"encoding/json"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wazerohook"
)

func TestVersion(t *testing.T) {
	engine, err := modcache.EngineID()
	require.NoError(t, err)
	out := call("version").want(t, exitOK).out
	for _, want := range []string{"modcache  ", engine, runtime.Version(), platform()} {
		require.Contains(t, out, want)
	}
	var v versions
	require.NoError(t, json.Unmarshal([]byte(call("version", "-json").want(t, exitOK).out), &v))
	require.Equal(t, engine, v.Wazero)
	require.Contains(t, call("help", "version").want(t, exitOK).out, "usage: modcache version")
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		out := call("completion", shell).want(t, exitOK).out
		for _, c := range commands {
			require.Contains(t, out, c.name)
			for _, f := range flagsOf(c) {
				require.Contains(t, out, f.Name)
			}
		}
	}
	call("completion").want(t, exitUsage)
	call("completion", "csh").want(t, exitUsage)

	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("NOT TESTED: what a shell completes, which needs bash")
	}
	for line, want := range map[string]string{
		"ver":           "verify version",
		"trim -max-":    "-max-age -max-bytes",
		"completion f":  "fish",
		"help doc":      "doctor",
		"nothing -json": "",
	} {
		words := strings.Fields(line)
		script := call("completion", "bash").out + "COMP_WORDS=(modcache " + line + "); COMP_CWORD=" +
			string(rune('0'+len(words))) + "; _modcache; echo ${COMPREPLY[@]}"
		out, err := exec.Command(bash, "-c", script).CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Equal(t, want, strings.TrimSpace(string(out)), line)
	}
}

// TestDoctorWithAnotherWazero has a tool that can't compile for a program: that says nothing about
// the program's cache.
func TestDoctorWithAnotherWazero(t *testing.T) {
	const theirs, own = "wazero@v1.11.0 h1:theirs=", "wazero@v1.10.1 h1:ours="
	d := &doctor{engineFlags: engineFlags{program: "server"}}
	d.keyer = &keyer{engine: engine{id: theirs, own: own, program: &wazerohook.Program{Identity: theirs}}}
	require.Error(t, d.keyer.engine.check())
	require.False(t, d.programIdentity())
	require.Zero(t, d.bad)
	last := d.findings[len(d.findings)-1]
	require.Equal(t, levelNote, last.Level)
	require.Contains(t, last.Text, own)
}

package main

import (
	"bytes"
	"log"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/examples/exampletest"
)

// shelf is a directory of plugins, with a host that serves them to alice.
type shelf struct {
	*host
	t      *testing.T
	dir    string
	post   func(path, body string) (int, string)
	logged bytes.Buffer // read after a request
}

func newShelf(t *testing.T) *shelf {
	s := &shelf{t: t, dir: t.TempDir()}
	s.host, s.post = serve(t, s.dir, filepath.Join(t.TempDir(), "cache"))
	s.log = log.New(&s.logged, "", 0)
	return s
}

// install puts a plugin in place.
func (s *shelf) install(name string, wasm []byte) {
	s.t.Helper()
	tmp := filepath.Join(s.dir, "new")
	require.NoError(s.t, os.WriteFile(tmp, wasm, 0o600))
	require.NoError(s.t, os.Rename(tmp, filepath.Join(s.dir, name+".wasm")))
}

// status is what alice gets from a plugin.
func (s *shelf) status(name string) int {
	status, _ := s.post("/alice/"+name, "")
	return status
}

// working returns a plugin that says nothing.
func working() []byte {
	var m exampletest.Wasm
	m.Func(m.Type(nil, nil), "handle")
	return m.Bytes()
}

// TestErrorsAreQuoted: what a plugin has chosen of an error forges no line, and fills no log.
func TestErrorsAreQuoted(t *testing.T) {
	long := strings.Repeat("\nplugin other.wasm: well done ", 300)
	var lacks, hands exampletest.Wasm
	lacks.Import(long, "f", lacks.Type(nil, nil))
	hands.Export(long, 0, hands.Import("host", "output", hands.Type([]byte{0x7f, 0x7f}, nil)))
	for name, c := range map[string]struct {
		wasm []byte
		want string
	}{
		"imports from what there isn't": {lacks.Bytes(), "start: "},
		"exports what it imports":       {hands.Bytes(), "which it imports"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShelf(t)
			one := func(want string) {
				t.Helper()
				require.Contains(t, s.logged.String(), want)
				require.Contains(t, s.logged.String(), c.want)
				require.Equal(t, 1, strings.Count(s.logged.String(), "\n"))
				require.Less(t, s.logged.Len(), 1000)
				s.logged.Reset()
			}
			s.install("bad", c.wasm)
			require.Equal(t, 502, s.status("bad"))
			one("bad.wasm: ")

			s.install("good", working())
			require.Equal(t, 200, s.status("good"))
			require.Zero(t, s.logged.Len())
			s.install("good", c.wasm)
			require.Equal(t, 200, s.status("good"))
			one("good.wasm: keeping the version that works: ")
		})
	}
}

// TestSlowStartIsLeftAlone for a while, and tried again then; what fails at once is not.
func TestSlowStartIsLeftAlone(t *testing.T) {
	s := newShelf(t)
	s.timeout = 10 * time.Millisecond
	s.install("slow", exampletest.Forever())
	tried := func(want bool) {
		t.Helper()
		s.logged.Reset()
		require.Equal(t, 504, s.status("slow"))
		require.Equal(t, want, strings.Contains(s.logged.String(), "start: "), s.logged.String())
	}
	before := time.Now()
	tried(true)
	p := s.tenants["alice"].plugins["slow"]
	require.False(t, p.again.Before(before.Add(retryAfter)))
	require.False(t, p.again.After(time.Now().Add(retryAfter)))
	tried(false)
	tried(false)
	p.again = time.Now()
	tried(true)
	require.True(t, p.again.After(before.Add(retryAfter)))

	s.timeout = time.Minute
	s.install("slow", working())
	require.Equal(t, 200, s.status("slow"))
	require.Zero(t, p.again)
	s.install("broken", []byte("not a module"))
	for range 2 {
		require.Equal(t, 502, s.status("broken"))
	}
	require.Zero(t, s.tenants["alice"].plugins["broken"].again)
}

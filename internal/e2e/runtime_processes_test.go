package e2e

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wasmtest"
)

var childWasm = wasmtest.Sum(100, 4)

// childStops compiles a module, but stops in the midst of it until it is given a line to
// read.
func childStops(t *testing.T, j job) (r report) {
	c, err := modcache.Open(j.Dir, &modcache.Options{OnEvent: func(e modcache.Event) {
		if e.Kind == modcache.EventCompileStarted {
			fmt.Println("compiling")
			_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		}
	}})
	require.NoError(t, err)
	rt := newRuntime(t, c, nil)
	require.EqualValues(t, 5054, call(t, rt, compile(t, rt, childWasm)))
	require.NoError(t, c.Close(bg))
	fmt.Println("compiles", c.Metrics().Compiles)
	return r
}

// child is such a process.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startChild(t *testing.T, dir string) *child {
	t.Helper()
	return startJob(t, job{Child: "stops", Dir: dir})
}

func startJob(t *testing.T, j job) *child {
	t.Helper()
	c := &child{cmd: childCommand(t, j)}
	c.cmd.Stderr = os.Stderr
	var err error
	c.in, err = c.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := c.cmd.StdoutPipe()
	require.NoError(t, err)
	c.out = bufio.NewReader(out)
	require.NoError(t, c.cmd.Start())
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
	})
	return c
}

func (c *child) line(t *testing.T) string {
	t.Helper()
	s, err := c.out.ReadString('\n')
	require.NoError(t, err)
	return s
}

type compiled struct {
	module wazero.CompiledModule
	err    error
}

// follow starts a compile in this process, which finds another process at it.
func follow(t *testing.T, dir string, wait time.Duration) (*modcache.Cache, *modcache.Runtime, <-chan compiled) {
	t.Helper()
	c, err := modcache.Open(dir, &modcache.Options{LockWait: wait})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close(bg)) })
	r := newRuntime(t, c, nil)
	done := make(chan compiled, 1)
	go func() {
		m, err := r.CompileModule(bg, childWasm)
		done <- compiled{m, err}
	}()
	for c.Metrics().Store.Misses == 0 { // until it is about to ask for the lock
		runtime.Gosched()
	}
	return c, r, done
}

// TestLeaderIsKilled amid a compile. Its lock dies with it, and who waits takes over.
func TestLeaderIsKilled(t *testing.T) {
	needsCompiler(t)
	dir := t.TempDir() + "/cache"
	leader := startChild(t, dir)
	require.Equal(t, "compiling\n", leader.line(t))
	c, r, done := follow(t, dir, time.Hour)
	select {
	case <-done:
		t.Fatal("two processes compile the same module")
	case <-time.After(50 * time.Millisecond): // nothing to wait for: it must not happen
	}
	require.NoError(t, leader.cmd.Process.Kill())
	got := <-done
	require.NoError(t, got.err)
	require.EqualValues(t, 5054, call(t, r, got.module))
	require.EqualValues(t, 1, c.Metrics().Compiles)
	require.Zero(t, c.Metrics().StoreErrors)
}

// TestLeaderFinishes, and who waited finds what it compiled.
func TestLeaderFinishes(t *testing.T) {
	needsCompiler(t)
	dir := t.TempDir() + "/cache"
	leader := startChild(t, dir)
	require.Equal(t, "compiling\n", leader.line(t))
	others := []*child{startChild(t, dir), startChild(t, dir)}
	c, r, done := follow(t, dir, time.Hour)
	_, err := leader.in.Write([]byte("go on\n"))
	require.NoError(t, err)
	got := <-done
	require.NoError(t, got.err)
	require.EqualValues(t, 5054, call(t, r, got.module))
	require.Zero(t, c.Metrics().Compiles)
	require.EqualValues(t, 1, c.Metrics().Hits)
	require.Equal(t, "compiles 1\n", leader.line(t))
	for _, other := range others {
		require.Equal(t, "compiles 0\n", other.line(t))
	}
}

// TestLeaderTakesTooLong for a waiter who isn't that patient.
func TestLeaderTakesTooLong(t *testing.T) {
	needsCompiler(t)
	dir := t.TempDir() + "/cache"
	leader := startChild(t, dir)
	require.Equal(t, "compiling\n", leader.line(t))
	for _, wait := range []time.Duration{10 * time.Millisecond, -1} {
		c, r, done := follow(t, dir, wait)
		got := <-done
		require.NoError(t, got.err)
		require.EqualValues(t, 5054, call(t, r, got.module))
		require.EqualValues(t, 1, c.Metrics().Compiles)
		require.NoError(t, c.Store().Delete(bg, r.Key(modcache.NewModule(childWasm))))
	}
}

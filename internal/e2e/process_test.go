package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wasmtest"
)

// job is what a child process is told to do, and report what it tells.
type job struct {
	Child     string
	Way       int
	Dir, File string
	Functions int
	Seed      int32
	From, To  int
	Step      int
	Options   struct {
		RequireHit bool
		EngineID   string
	}
}

type report struct {
	Result  uint64
	Err     string
	Metrics modcache.CacheMetrics
	Engine  string
	Counts  map[string]int
}

const jobVariable = "MODCACHE_TEST_JOB"

// TestCacheChild is no test: it is what child processes run.
func TestCacheChild(t *testing.T) {
	text := os.Getenv(jobVariable)
	if text == "" {
		t.Skip("only in child processes")
	}
	var j job
	require.NoError(t, json.Unmarshal([]byte(text), &j))
	r := map[string]func(t *testing.T, j job) report{
		"run": childRun, "damage": childDamage, "plain": childPlain, "limited": childLimited, "stops": childStops,
		"snapshots": childSnapshots,
	}[j.Child](t, j)
	out, err := json.Marshal(r)
	require.NoError(t, err)
	fmt.Printf("\nREPORT %s\n", out)
}

// childCommand returns a command that runs this test binary as a child.
func childCommand(t testing.TB, j job) *exec.Cmd {
	exe, err := os.Executable()
	require.NoError(t, err)
	text, err := json.Marshal(j)
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestCacheChild$", "-test.timeout=10m")
	cmd.Env = append(os.Environ(), jobVariable+"="+string(text))
	return cmd
}

// reportOf reads what a child has written.
func reportOf(out []byte) (r report, ok bool) {
	_, text, ok := bytes.Cut(out, []byte("\nREPORT "))
	return r, ok && json.NewDecoder(bytes.NewReader(text)).Decode(&r) == nil
}

func inChild(t testing.TB, j job) report {
	t.Helper()
	out, err := childCommand(t, j).CombinedOutput()
	require.NoError(t, err, "%s", out)
	r, ok := reportOf(out)
	require.True(t, ok, "%s", out)
	return r
}

// childRun compiles and runs one module.
func childRun(t *testing.T, j job) (r report) {
	o := &modcache.Options{RequireHit: j.Options.RequireHit, EngineID: j.Options.EngineID}
	c, err := modcache.Open(j.Dir, o)
	require.NoError(t, err)
	if r.Result, err = ways[j.Way].Run(c, wasmtest.Sum(j.Functions, j.Seed)); err != nil {
		r.Err = err.Error()
	}
	r.Metrics, r.Engine = c.Metrics(), c.EngineID()
	require.NoError(t, c.Close(bg))
	return r
}

// TestHitAcrossProcesses is what the whole library is for.
func TestHitAcrossProcesses(t *testing.T) {
	needsCompiler(t)
	for i, w := range ways {
		t.Run(w.Name, func(t *testing.T) {
			j := job{Child: "run", Way: i, Dir: t.TempDir() + "/cache", Functions: 30}
			j.Options.RequireHit = true
			r := inChild(t, j)
			require.Contains(t, r.Err, modcache.ErrMiss.Error())
			require.Zero(t, r.Metrics.Compiles)

			j.Options.RequireHit = false
			cold := inChild(t, j)
			require.Empty(t, cold.Err)
			require.EqualValues(t, 30*31/2, cold.Result)
			require.Zero(t, cold.Metrics.Hits)
			require.Len(t, entriesBelow(t, j.Dir), 1)

			j.Options.RequireHit = true
			warm := inChild(t, j)
			require.Empty(t, warm.Err)
			require.Equal(t, cold.Result, warm.Result)
			require.EqualValues(t, 1, warm.Metrics.Hits)
			require.Equal(t, cold.Engine, warm.Engine)

			// This process is another one still.
			requireRuns(t, w, openCache(t, j.Dir, &modcache.Options{RequireHit: true}), wasmtest.Sum(30, 0), 30*31/2)

			j.Options.EngineID = "another"
			require.Contains(t, inChild(t, j).Err, modcache.ErrMiss.Error())
		})
	}
}

func TestManyProcessesAtOnce(t *testing.T) {
	needsCompiler(t)
	for i, w := range ways {
		t.Run(w.Name, func(t *testing.T) {
			j := job{Child: "run", Way: i, Dir: t.TempDir() + "/cache", Functions: 30}
			var cmds []*exec.Cmd
			var outs []*bytes.Buffer
			for range 4 {
				cmd, out := childCommand(t, j), &bytes.Buffer{}
				cmd.Stdout, cmd.Stderr = out, out
				require.NoError(t, cmd.Start())
				cmds, outs = append(cmds, cmd), append(outs, out)
			}
			compiles := uint64(0)
			for i, cmd := range cmds {
				require.NoError(t, cmd.Wait(), "%s", outs[i])
				r, ok := reportOf(outs[i].Bytes())
				require.True(t, ok)
				require.Empty(t, r.Err)
				require.EqualValues(t, 30*31/2, r.Result)
				compiles += r.Metrics.Compiles
			}
			require.Len(t, entriesBelow(t, j.Dir), 1)
			if w.Name == "Runtime" {
				require.EqualValues(t, 1, compiles, "processes share one compile")
			}
			left, err := filepath.Glob(j.Dir + "/tmp/*")
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}

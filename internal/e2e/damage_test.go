package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// damages numbers the ways to damage n bytes: every single-bit flip, then every
// shorter length.
func damages(n int) int { return 9 * n }

func damaged(b []byte, i int) []byte {
	if i >= 8*len(b) {
		return b[:i-8*len(b)]
	}
	b = bytes.Clone(b)
	b[i/8] ^= 1 << (i % 8)
	return b
}

// mutated is damage of the kinds that file systems do, by a seed.
func mutated(b []byte, seed int) []byte {
	r := rand.New(rand.NewPCG(uint64(seed), 7))
	b = bytes.Clone(b)
	for range 1 + r.IntN(3) {
		if len(b) == 0 {
			return b
		}
		at := r.IntN(len(b))
		end := min(len(b), at+1+r.IntN(1<<r.IntN(17)))
		switch r.IntN(8) {
		case 0:
			b = b[:at]
		case 1:
			clear(b[at:end]) // a hole
		case 2:
			for i := at; i < end; i++ {
				b[i] = byte(r.Uint32())
			}
		case 3:
			b = slices.Delete(b, at, end)
		case 4:
			b = slices.Insert(b, at, b[at:end]...)
		case 5:
			copy(b[at:end], b[r.IntN(len(b)):]) // a misplaced block
		default:
			b[at] ^= 1 << r.IntN(8)
		}
	}
	return b
}

// childDamage puts damage after damage in the place of an entry, and compiles and runs
// the module with each.
func childDamage(t *testing.T, j job) report {
	sound, err := os.ReadFile(j.File)
	require.NoError(t, err)
	wasm := wasmtest.Sum(j.Functions, j.Seed)
	want, err := cachetest.RunPlain(wasm)
	require.NoError(t, err)
	c, err := modcache.Open(j.Dir, &modcache.Options{Retain: forget})
	require.NoError(t, err)
	defer c.Close(bg)
	spoil := damaged
	if j.Child == "damage" && j.Functions > 100 {
		spoil = mutated
	}
	n := 0
	for i := j.From; i < j.To; i += j.Step {
		b := spoil(sound, i)
		require.NoError(t, os.WriteFile(j.File, b, 0o600))
		before := c.Metrics()
		got, err := ways[j.Way].Run(c, wasm)
		require.NoError(t, err, "damage %d", i)
		require.Equal(t, want, got, "damage %d", i)
		hit := c.Metrics().Hits > before.Hits
		require.Equal(t, bytes.Equal(b, sound), hit, "damage %d", i)
		n++
	}
	m := c.Metrics()
	require.NotZero(t, m.Corrupt+m.Store.Corrupt)
	return report{Counts: map[string]int{"right": n}}
}

func TestEveryDamageOfAnEntry(t *testing.T) {
	needsCompiler(t)
	for i, w := range ways {
		t.Run(w.Name, func(t *testing.T) {
			dir := t.TempDir() + "/cache"
			j := job{Child: "damage", Way: i, Dir: dir, Functions: 3, Step: 83}
			c := openCache(t, dir, nil)
			requireRuns(t, w, c, wasmtest.Sum(j.Functions, 0), 6)
			require.NoError(t, c.Close(bg))
			j.File = entriesBelow(t, dir)[0]
			b, err := os.ReadFile(j.File)
			require.NoError(t, err)
			if thorough {
				j.Step = 1
			}
			j.To = damages(len(b))
			n := inChild(t, j).Counts["right"]
			require.Equal(t, (j.To+j.Step-1)/j.Step, n)
			t.Logf("%d of %d flips and truncations of an entry of %d bytes: always the right result", n, j.To, len(b))
		})
		t.Run(w.Name+" random", func(t *testing.T) {
			const functions = 850
			dir := t.TempDir() + "/cache"
			j := job{Child: "damage", Way: i, Dir: dir, Functions: functions, Step: 1, To: 6}
			c := openCache(t, dir, nil)
			requireRuns(t, w, c, wasmtest.Sum(functions, 0), functions*(functions+1)/2)
			require.NoError(t, c.Close(bg))
			j.File = entriesBelow(t, dir)[0]
			if thorough {
				j.To = 5000
			}
			n := inChild(t, j).Counts["right"]
			require.Equal(t, j.To, n)
			t.Logf("%d random mutations of an entry: always the right result", n)
		})
	}
}

// childPlain does the same to one entry in wazero's own directory, once.
func childPlain(t *testing.T, j job) (r report) {
	defer func() {
		if p := recover(); p != nil {
			r.Err = fmt.Sprint("panic: ", p)
		}
	}()
	wasm := wasmtest.Sum(j.Functions, j.Seed)
	cc, err := wazero.NewCompilationCacheWithDir(j.Dir)
	require.NoError(t, err)
	rt := wazero.NewRuntimeWithConfig(bg, wazero.NewRuntimeConfig().WithCompilationCache(cc))
	if r.Result, err = cachetest.Run(rt, wasm); err != nil {
		r.Err = err.Error()
		// Is that for good?
		if r.Result, err = cachetest.Run(rt, wasm); err == nil {
			r.Err = ""
		}
	}
	return r
}

// TestPlainWazeroForComparison counts what damage to an entry of wazero's own directory
// cache does. It asserts nothing but that there is a reason to do better.
func TestPlainWazeroForComparison(t *testing.T) {
	needsCompiler(t)
	const functions, want = 3, 6
	dir, files := cachetest.PlainDirectory(t, wasmtest.Sum(functions, 0))
	sound, err := os.ReadFile(files[0])
	require.NoError(t, err)
	step := 193
	if thorough {
		step = 1
	}
	var mu sync.Mutex
	kinds := map[bool]string{true: "flips", false: "truncations"}
	counts, n := map[string]int{}, 0
	total := map[string]int{}
	work := make(chan int)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			own := t.TempDir()
			name := own + files[0][len(dir):]
			cc, err := wazero.NewCompilationCacheWithDir(own) // makes the directory
			if err == nil {
				err = cc.Close(bg)
			}
			for i := range work {
				outcome := "test failed"
				if err == nil {
					err = os.WriteFile(name, damaged(sound, i), 0o600)
					outcome = plainOutcome(t, job{Child: "plain", Dir: own, Functions: functions}, want)
				}
				mu.Lock()
				kind := kinds[i < 8*len(sound)]
				counts[kind+": "+outcome]++
				total[outcome]++
				n++
				mu.Unlock()
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	for i := 0; i < damages(len(sound)); i += step {
		work <- i
	}
	close(work)
	wg.Wait()
	t.Logf("wazero's own directory cache, %d of %d flips and truncations of an entry of %d bytes: %v", n, damages(len(sound)), len(sound), counts)
	require.Zero(t, total["test failed"])
	require.Less(t, total["right result"], n)
}

func plainOutcome(t testing.TB, j job, want uint64) string {
	cmd := childCommand(t, j)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return "test failed"
	}
	// Wrong code may run for ever.
	hung := make(chan struct{})
	watch := time.AfterFunc(time.Minute, func() { close(hung); _ = cmd.Process.Kill() })
	err := cmd.Wait()
	if !watch.Stop() {
		<-hung
		return "hang"
	}
	r, ok := reportOf(out.Bytes())
	if _, died := err.(*exec.ExitError); died || !ok {
		return "process death"
	}
	switch {
	case len(r.Err) > 6 && r.Err[:6] == "panic:":
		return "panic"
	case r.Err != "":
		return "permanent error"
	case r.Result != want:
		return "WRONG RESULT"
	}
	return "right result"
}

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wasmtest"
)

// snapshotModule has a memory of 4 MiB, which fill fills.
func snapshotModule() *modcache.Module {
	var m wasmtest.Module
	m.Memory(64)
	m.Func(m.Type(nil, nil), "fill", 0x41, 0, 0x41, 7, 0x41, 0x80, 0x80, 0x80, 2, 0xfc, 11, 0)
	return modcache.NewModule(m.Bytes())
}

// makeTemplate makes a template whose Init calls fill, having called before. It reports whether Init ran, and
// the sum of an instance's memory.
func makeTemplate(t *testing.T, dir string, before func()) (ran bool, sum int) {
	t.Helper()
	c, err := modcache.Open(dir, nil)
	require.NoError(t, err)
	r := newRuntime(t, c, nil)
	tmpl, err := r.NewTemplate(bg, snapshotModule(), &modcache.TemplateOptions{ID: "fill", Init: func(ctx context.Context, mod api.Module) error {
		ran = true
		before()
		_, err := mod.ExportedFunction("fill").Call(ctx)
		return err
	}})
	require.NoError(t, err)
	mod, err := tmpl.Instantiate(bg, nil)
	require.NoError(t, err)
	b, _ := mod.Memory().Read(0, mod.Memory().Size())
	for _, v := range b {
		sum += int(v)
	}
	require.NoError(t, tmpl.Close(bg))
	require.NoError(t, r.Close(bg))
	require.NoError(t, c.Close(bg))
	return ran, sum
}

// childSnapshots makes a template, and says when Init runs, and when it is made.
func childSnapshots(t *testing.T, j job) (r report) {
	_, sum := makeTemplate(t, j.Dir, func() {
		fmt.Println("init")
		if j.Step == 1 {
			_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		}
	})
	fmt.Println("sum", sum)
	return r
}

// TestTemplateMakerIsKilled while its Init runs, and at any moment after that, as the snapshot is stored. The
// next process isn't kept waiting, and gets a template that is whole: Init runs again, or what
// was stored is.
func TestTemplateMakerIsKilled(t *testing.T) {
	needsCompiler(t)
	want := 7 * 64 << 16
	kills, ranAgain := 12, 0
	if testing.Short() {
		kills = 3
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range kills {
		dir := t.TempDir() + "/cache"
		stops := i % 3 // 1: in Init
		c := startJob(t, job{Child: "snapshots", Dir: dir, Step: stops})
		require.Equal(t, "init\n", c.line(t))
		if stops != 1 {
			time.Sleep(time.Duration(rnd.IntN(100)) * time.Millisecond) // any moment will do
		}
		require.NoError(t, c.cmd.Process.Kill())
		ran, sum := makeTemplate(t, dir, func() {})
		require.Equal(t, want, sum)
		if ran {
			ranAgain++
		}
		if stops == 1 {
			require.True(t, ran)
		}
		ran, sum = makeTemplate(t, dir, func() {})
		require.Equal(t, want, sum)
		require.False(t, ran, "what is stored is whole")
	}
	t.Logf("%d kills, after %d of which Init ran again", kills, ranAgain)
}

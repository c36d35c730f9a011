package debugpage

import (
	"context"
	"iter"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bounded"
)

// A directory that hangs, whatever becomes of a context, is waited for once.
func TestHandlerOverADirectoryThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, answer := &handler{walks: bounded.NewLane(1)}, make(chan struct{})
		hangs := func(context.Context) iter.Seq2[modcache.DiskEntry, error] {
			return func(func(modcache.DiskEntry, error) bool) { <-answer }
		}
		start := time.Now()
		for range 3 {
			list := h.entries(t.Context(), "dir", hangs, "engine")
			require.Equal(t, "the directory doesn't answer", list.Problem)
			require.Empty(t, list.List)
			require.Equal(t, walkTime, time.Since(start))
		}
		close(answer)
		synctest.Wait()
		require.True(t, h.entries(t.Context(), "dir", hangs, "engine").Complete)
	})
}

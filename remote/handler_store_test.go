package remote

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bounded"
)

// stuck hangs when it is read.
type stuck chan struct{}

func (s stuck) ReadAt(p []byte, off int64) (int, error) {
	<-s
	return bytes.NewReader(make([]byte, 1000)).ReadAt(p, off)
}

// A file that hangs when it is sent costs a request a time that is known, and the next one none.
func TestHandlerReadsNoFileForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, reads := make(stuck), bounded.NewLane(4)
		r := section(context.Background(), reads, modcache.NewArtifactFrom(s, 1000, modcache.Info{}))
		start := time.Now()
		_, err := r.ReadAt(make([]byte, 100), 0)
		require.True(t, hangs(err), "%v", err)
		_, err = r.ReadAt(make([]byte, 100), 0)
		require.True(t, hangs(err), "%v", err)
		require.Equal(t, patience, time.Since(start))
		close(s)
		synctest.Wait()
		n, err := r.ReadAt(make([]byte, 100), 950)
		require.Error(t, err)
		require.Equal(t, 50, n)
	})
}

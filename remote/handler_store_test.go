package remote

import (
	"bytes"
	"context"
	"io"
	"net/http"
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
		own := bytes.Repeat([]byte{1}, 100)
		_, err := r.ReadAt(own, 0)
		require.True(t, hangs(err), "%v", err)
		_, err = r.ReadAt(make([]byte, 100), 0)
		require.True(t, hangs(err), "%v", err)
		require.Equal(t, patience, time.Since(start))
		close(s)
		synctest.Wait()
		require.Equal(t, bytes.Repeat([]byte{1}, 100), own, "what has hung has a buffer of its own")
		n, err := r.ReadAt(make([]byte, 100), 950)
		require.Error(t, err)
		require.Equal(t, 50, n)
	})
}

// A transfer gets some time for its next bytes, but in all no more than what has arrived so far may take, nor than the
// server lets it.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var due time.Time
		set := func(deadline time.Time) error { due = deadline; return nil }
		after := func() time.Duration { return due.Sub(start) }

		p := newPace(set, 5*time.Second, 0, 0)
		body := pacedReader{p, bytes.NewReader(make([]byte, slowest*20))}
		p.step()
		require.Equal(t, 5*time.Second, after())
		time.Sleep(28 * time.Second)
		p.step()
		require.Equal(t, minUpload, after(), "nothing has arrived")
		_, _ = body.Read(make([]byte, slowest*3))
		p.step()
		require.Equal(t, minUpload+3*time.Second, after())
		p.done()
		require.True(t, due.IsZero())

		start = time.Now()
		p = newPace(set, 5*time.Second, 0, slowest*20)
		p.step()
		require.Equal(t, 25*time.Second, after())
		time.Sleep(48 * time.Second)
		p.step()
		require.Equal(t, minUpload+20*time.Second, after())

		start = time.Now()
		p = newPace(set, 5*time.Second, 10*time.Second, 0)
		time.Sleep(7 * time.Second)
		p.step()
		require.Equal(t, 10*time.Second, after())
		require.NoError(t, set(time.Time{}))
		p.done()
		require.Equal(t, 10*time.Second, after())
	})
}

// lateBackend answers a Get once it may, and counts the bodies that nobody has closed.
type lateBackend struct {
	Backend
	may  chan struct{}
	open int
}

func (b *lateBackend) Get(context.Context, modcache.Key) (io.ReadCloser, error) {
	<-b.may
	b.open++
	return lateBody{b}, nil
}

type lateBody struct{ b *lateBackend }

func (lateBody) Read([]byte) (int, error) { return 0, io.EOF }
func (l lateBody) Close() error           { l.b.open--; return nil }

// Bodies are closed, be it that they come too late, or that only their start was wanted.
func TestImpatientClosesBodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &lateBackend{may: make(chan struct{})}
		i := newImpatient(b, 1)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := i.Get(ctx, modcache.Key{})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		close(b.may)
		synctest.Wait()
		require.Zero(t, b.open)
		require.NoError(t, i.look(context.Background(), modcache.Key{}, func(io.Reader) error { require.Equal(t, 1, b.open); return nil }))
		require.Zero(t, b.open)
	})
}

// TestAhead tells what may arrive before the next bytes of a request's body, which bounds how long a client holds its place.
func TestAhead(t *testing.T) {
	for name, c := range map[string]struct {
		major int
		o     *http.HTTP2Config
		want  int64
	}{
		"HTTP/1":    {1, &http.HTTP2Config{MaxReceiveBufferPerConnection: 1 << 18}, 0},
		"net/http":  {2, nil, 1 << 20},
		"no choice": {2, &http.HTTP2Config{MaxReadFrameSize: 1 << 14}, 1 << 20},
		"chosen":    {2, &http.HTTP2Config{MaxReceiveBufferPerConnection: 1 << 18}, 1 << 18},
		"too small": {2, &http.HTTP2Config{MaxReceiveBufferPerConnection: 1 << 10}, 1 << 20},
	} {
		r := &http.Request{ProtoMajor: c.major}
		ctx := context.WithValue(t.Context(), http.ServerContextKey, &http.Server{HTTP2: c.o})
		require.Equal(t, c.want, ahead(r.WithContext(ctx)), name)
	}
	require.EqualValues(t, 1<<20, ahead(&http.Request{ProtoMajor: 2}), "a server that isn't known")
}

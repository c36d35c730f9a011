package remote_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/remote"
)

// TestHandlerReports counts, logs and says how it is.
func TestHandlerReports(t *testing.T) {
	var log bytes.Buffer
	var broken error
	store := &storetest.Fake{}
	store.OnGet = func(ctx context.Context, k modcache.Key) (*modcache.Artifact, bool, error) {
		if broken != nil {
			return nil, false, broken
		}
		return store.Below().Get(ctx, k)
	}
	h := newHandler(t, store, &remote.HandlerOptions{
		ReadTokens: []string{"reader"}, WriteTokens: []string{token}, Logger: slog.New(slog.NewJSONHandler(&log, nil)),
	})
	read, write := []string{"Authorization", "Bearer reader"}, []string{"Authorization", "Bearer " + token}
	b := entry(t, remote.Options{Signer: generate(t)}, key(1), 4000)
	path := "/p/" + key(1).String()
	require.Equal(t, 201, status(t, h, "PUT", path, b, write...))
	require.Equal(t, 200, status(t, h, "GET", path, nil, read...))
	require.Equal(t, 401, status(t, h, "GET", path, nil))
	require.Equal(t, 404, status(t, h, "GET", "/"+key(2).String(), nil, read...))
	damaged := bytes.Clone(b)
	damaged[len(damaged)-1] ^= 1
	require.Equal(t, 400, status(t, h, "PUT", path, damaged, write...), "nothing damaged is acknowledged")

	require.Equal(t, 401, status(t, h, "GET", "/metrics", nil))
	metrics := string(content(t, request(t, h, "GET", "/metrics", nil, read...)))
	for _, line := range []string{
		`modcache_server_requests_total{method="GET",status="200"} 1`,
		`modcache_server_requests_total{method="PUT",status="201"} 1`,
		`modcache_server_requests_total{method="PUT",status="400"} 1`,
		`modcache_server_request_seconds_count{method="GET"} 4`,
		`modcache_server_store_entries 1`,
	} {
		require.Contains(t, metrics, line+"\n")
	}
	sample := regexp.MustCompile(`^[a-z_]+(\{[a-z]+="[A-Za-z0-9]+"(,[a-z]+="[A-Za-z0-9]+")*\})? [0-9.e+-]+$`)
	for line := range strings.Lines(metrics) {
		if !strings.HasPrefix(line, "# ") {
			require.Regexp(t, sample, strings.TrimSuffix(line, "\n"))
		}
	}

	require.Equal(t, "ok\n", string(content(t, request(t, h, "GET", "/healthz", nil))), "without a token")
	broken = errors.New("the device is gone")
	sick := request(t, h, "GET", "/healthz", nil)
	require.Equal(t, 503, sick.StatusCode)
	require.NotContains(t, string(content(t, sick)), "device", "that is for the log")
	require.Equal(t, 500, status(t, h, "GET", path, nil, read...))

	var statuses []int
	warned := 0
	for line := range bytes.Lines(log.Bytes()) {
		var l struct {
			Level, Msg, Path, Error, Method string
			Status                          int
		}
		require.NoError(t, json.Unmarshal(line, &l))
		if l.Msg != "request" { // what writes these responses knows no deadlines
			require.Contains(t, l.Msg, "Unwrap")
			warned++
			continue
		}
		statuses = append(statuses, l.Status)
		require.Equal(t, l.Status >= 500, l.Level == "WARN", "%s", line)
		require.Equal(t, l.Status >= 300, l.Error != "", "%s", line)
	}
	require.Equal(t, []int{201, 200, 401, 404, 400, 401, 503, 500}, statuses, "what is well, and asked all the time, isn't told")
	require.Equal(t, 1, warned)
	require.Contains(t, log.String(), "the device is gone")
	require.NotContains(t, log.String(), token)
	require.NotContains(t, log.String(), "reader")
}

// TestHandlerOverAStoreThatHangs lets no request wait for it for long, once it is known none at all, and few hang with it.
func TestHandlerOverAStoreThatHangs(t *testing.T) {
	b := entry(t, remote.Options{Signer: generate(t)}, key(1), 4000)
	path, auth := "/"+key(1).String(), []string{"Authorization", "Bearer " + token}
	for name, c := range map[string]struct {
		method, path string
		wait         time.Duration
		most         int64
	}{
		"GET":     {"GET", path, 5 * time.Second, 256},
		"HEAD":    {"HEAD", path, 5 * time.Second, 256},
		"healthz": {"GET", "/healthz", 5 * time.Second, 256},
		"PUT":     {"PUT", path, 30 * time.Second, 4},
		"DELETE":  {"DELETE", path, 30 * time.Second, 4},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				answer := make(chan struct{})
				var armed atomic.Bool
				var hung atomic.Int64
				hang := func() {
					if armed.Load() {
						hung.Add(1)
						<-answer
					}
				}
				store := &storetest.Fake{}
				store.OnGet = func(ctx context.Context, k modcache.Key) (*modcache.Artifact, bool, error) {
					hang()
					return store.Below().Get(ctx, k)
				}
				store.OnAdd = func(ctx context.Context, k modcache.Key, a *modcache.Artifact) error {
					hang()
					return store.Below().Add(ctx, k, a)
				}
				store.OnDelete = func(context.Context, modcache.Key) error { hang(); return nil }
				h := newHandler(t, store, &remote.HandlerOptions{WriteTokens: []string{token}})
				require.Equal(t, 201, status(t, h, "PUT", path, b, auth...))

				ask := func(ctx context.Context) int {
					r := httptest.NewRequestWithContext(ctx, c.method, c.path, bytes.NewReader(b))
					r.Header.Set(auth[0], auth[1])
					w := httptest.NewRecorder()
					h.ServeHTTP(w, r)
					return w.Code
				}
				armed.Store(true)
				start := time.Now()
				require.Equal(t, 503, ask(t.Context()))
				require.Equal(t, c.wait, time.Since(start))
				for range 5 {
					require.Equal(t, 503, ask(t.Context()))
				}
				require.Equal(t, c.wait, time.Since(start))
				require.EqualValues(t, 1, hung.Load())
				for range 300 { // who leave, long before it could be seen that the store hangs
					time.Sleep(time.Minute)
					ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
					ask(ctx)
					cancel()
				}
				require.LessOrEqual(t, hung.Load(), c.most)
				armed.Store(false)
				close(answer)
				synctest.Wait()
				require.Less(t, ask(t.Context()), 300)
			})
		})
	}
}

// stuck is a slog.Handler that never returns.
type stuck struct {
	slog.Handler
	until chan struct{}
}

func (s stuck) Handle(context.Context, slog.Record) error { <-s.until; return nil }

// slow is a slog.Handler that takes a second for each record.
type slow struct {
	slog.Handler
	records *atomic.Int32
}

func (s slow) Handle(context.Context, slog.Record) error {
	time.Sleep(time.Second)
	s.records.Add(1)
	return nil
}

// TestHandlerLogsManyAtOnce where the logger is slow: none waits for the others.
func TestHandlerLogsManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var records atomic.Int32
		h := newHandler(t, &storetest.Fake{}, &remote.HandlerOptions{Logger: slog.New(slow{slog.NewTextHandler(io.Discard, nil), &records})})
		start := time.Now()
		var clients sync.WaitGroup
		for range 60 {
			clients.Go(func() { status(t, h, "GET", "/"+key(1).String(), nil) })
		}
		clients.Wait()
		require.EqualValues(t, 60, records.Load())
		require.Equal(t, time.Second, time.Since(start))
	})
}

// TestHandlerLeavesALoggerThatHangs: what reads standard error may have stopped.
func TestHandlerLeavesALoggerThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		until := make(chan struct{})
		h := newHandler(t, &storetest.Fake{}, &remote.HandlerOptions{Logger: slog.New(stuck{slog.NewTextHandler(io.Discard, nil), until})})
		start := time.Now()
		for range 300 {
			require.Equal(t, 404, status(t, h, "GET", "/"+key(1).String(), nil))
		}
		require.Equal(t, 3*time.Second, time.Since(start))
		close(until)
	})
}

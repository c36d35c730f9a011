package remote

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bounded"
)

// recorder remembers what was answered.
type recorder struct {
	http.ResponseWriter
	status int
	sent   int64
	err    error
}

// Unwrap is for [http.ResponseController].
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements [http.ResponseWriter].
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements [io.Writer].
func (w *recorder) Write(b []byte) (int, error) {
	w.status = cmp.Or(w.status, http.StatusOK)
	n, err := w.ResponseWriter.Write(b)
	w.sent += int64(n)
	return n, err
}

// ReadFrom implements [io.ReaderFrom], for what the kernel can copy by itself.
func (w *recorder) ReadFrom(src io.Reader) (int64, error) {
	w.status = cmp.Or(w.status, http.StatusOK)
	n, err := io.Copy(w.ResponseWriter, src)
	w.sent += n
	return n, err
}

// answered says what kind of requests are counted together.
type answered struct {
	method string
	status int
}

type handlerCounters struct {
	received, sent atomic.Uint64

	mu       sync.Mutex // guards these
	requests map[answered]uint64
	took     map[string]time.Duration // by method
}

// record counts and logs a request that has ended.
func (h *Handler) record(w *recorder, r *http.Request, start time.Time) {
	took := time.Since(start)
	method := r.Method
	if !slices.Contains([]string{"GET", "HEAD", "PUT", "DELETE"}, method) {
		method = "other"
	}
	c := &h.counters
	c.sent.Add(uint64(w.sent))
	c.mu.Lock()
	if c.requests == nil {
		c.requests, c.took = map[answered]uint64{}, map[string]time.Duration{}
	}
	c.requests[answered{method, w.status}]++
	c.took[method] += took
	c.mu.Unlock()
	if h.log == nil {
		return
	}
	level := slog.LevelInfo
	attrs := []slog.Attr{
		slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Int("status", w.status),
		slog.Int64("bytes", w.sent), slog.Duration("took", took), slog.String("client", r.RemoteAddr),
	}
	if w.err != nil {
		attrs = append(attrs, slog.String("error", w.err.Error()))
		if refusalOf(w.err).status >= http.StatusInternalServerError || w.status < 300 {
			level = slog.LevelWarn
		}
	}
	if name := path.Base(r.URL.Path); w.err == nil && (name == "healthz" || name == "metrics") {
		level = slog.LevelDebug
	}
	h.note(r.Context(), level, "request", attrs...)
}

// logPatience is how long a request waits for the Logger, which may write to what nobody reads any more.
const logPatience = 3 * time.Second

// note logs something, unless that hangs.
func (h *Handler) note(ctx context.Context, level slog.Level, what string, attrs ...slog.Attr) {
	_, _ = bounded.Do(context.WithoutCancel(ctx), h.logs, logPatience, func(ctx context.Context) (struct{}, error) {
		h.log.LogAttrs(ctx, level, what, attrs...)
		return struct{}{}, nil
	}, nil)
}

// health says whether the store answers.
func (h *Handler) health(w *recorder, r *http.Request) error {
	_, err := h.has(r.Context(), modcache.Key{})
	if err != nil {
		return &refusal{http.StatusServiceUnavailable, "the store fails"}
	}
	_, err = io.WriteString(w, "ok\n")
	return err
}

// WriteMetrics writes what the handler counts, and what its store does, in the text format of
// Prometheus.
func (h *Handler) WriteMetrics(w io.Writer) error {
	out := bufio.NewWriter(w)
	family := func(name, kind, help string) {
		fmt.Fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
	}
	one := func(name, kind, help string, value any) {
		family(name, kind, help)
		fmt.Fprintf(out, "%s %v\n", name, value)
	}
	c := &h.counters
	c.mu.Lock()
	requests, took := maps.Clone(c.requests), maps.Clone(c.took)
	c.mu.Unlock()

	family("modcache_server_requests_total", "counter", "Requests that have ended. Status 0 is one that was cut off before an answer.")
	kinds := slices.SortedFunc(maps.Keys(requests), func(a, b answered) int {
		return cmp.Or(cmp.Compare(a.method, b.method), cmp.Compare(a.status, b.status))
	})
	count := map[string]uint64{}
	for _, k := range kinds {
		fmt.Fprintf(out, "modcache_server_requests_total{method=%q,status=\"%d\"} %d\n", k.method, k.status, requests[k])
		count[k.method] += requests[k]
	}
	family("modcache_server_request_seconds", "summary", "How long requests took.")
	for _, method := range slices.Sorted(maps.Keys(took)) {
		fmt.Fprintf(out, "modcache_server_request_seconds_sum{method=%q} %g\n", method, took[method].Seconds())
		fmt.Fprintf(out, "modcache_server_request_seconds_count{method=%q} %d\n", method, count[method])
	}
	one("modcache_server_sent_bytes_total", "counter", "Bytes of responses.", c.sent.Load())
	one("modcache_server_received_bytes_total", "counter", "Bytes of uploads.", c.received.Load())
	if s := h.signing; s != nil {
		s.mu.Lock()
		waiting, _ := s.jobs.Held()
		s.mu.Unlock()
		one("modcache_server_signed_total", "counter", "Entries that were compressed and signed.", s.made.Load())
		one("modcache_server_sign_failures_total", "counter", "Entries that couldn't be, or couldn't be kept.", s.failed.Load())
		one("modcache_server_to_sign", "gauge", "Entries that wait for that.", waiting)
	}
	m, err := bounded.Do(context.Background(), h.reports, patience, func(context.Context) (modcache.Metrics, error) {
		return h.store.Metrics(), nil
	}, nil)
	if err == nil {
		one("modcache_server_store_entries", "gauge", "Entries in the store, as far as it knows.", m.Entries)
		one("modcache_server_store_bytes", "gauge", "Bytes in the store, as far as it knows.", m.Bytes)
		one("modcache_server_store_evictions_total", "counter", "Entries that were dropped to make room.", m.Evictions)
		one("modcache_server_store_corrupt_total", "counter", "Entries that were found damaged.", m.Corrupt)
		one("modcache_server_store_errors_total", "counter", "Operations of the store that failed.", m.Errors)
	}
	return out.Flush()
}

package remote_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"regexp"
	"strings"
	"testing"

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
	for line := range bytes.Lines(log.Bytes()) {
		var l struct {
			Level, Path, Error, Method string
			Status                     int
		}
		require.NoError(t, json.Unmarshal(line, &l))
		statuses = append(statuses, l.Status)
		require.Equal(t, l.Status >= 500, l.Level == "WARN", "%s", line)
		require.Equal(t, l.Status >= 300, l.Error != "", "%s", line)
	}
	require.Equal(t, []int{201, 200, 401, 404, 400, 401, 503, 500}, statuses, "what is well, and asked all the time, isn't told")
	require.Contains(t, log.String(), "the device is gone")
	require.NotContains(t, log.String(), token)
	require.NotContains(t, log.String(), "reader")
}

package debugpage_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/debugpage"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// statusOf returns what the page says of a Cache, in JSON and in HTML.
func statusOf(t *testing.T, c *modcache.Cache) (status map[string]any, html string) {
	h := debugpage.Handler(c, nil)
	var p struct{ Status map[string]any }
	body := get(t, h, "/?format=json").Body
	require.NotContains(t, body.String(), "password")
	require.NoError(t, json.Unmarshal(body.Bytes(), &p))
	html = get(t, h, "/").Body.String()
	require.NotContains(t, html, "password")
	return p.Status, html
}

func TestStatus(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, filepath.Join(dir, "c"), nil)
	require.NoError(t, compile(t, c, wasmtest.Const(1)))
	status, html := statusOf(t, c)
	require.Equal(t, true, status["storing"])
	require.Contains(t, html, ">Storing<")

	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	status, html = statusOf(t, openCache(t, filepath.Join(dir, "file", "c"), nil))
	require.Equal(t, false, status["storing"])
	require.Equal(t, true, status["in_memory"])
	require.Contains(t, status["why"], dir)
	require.Contains(t, html, "In memory only")

	// A store's own text stays out of it.
	s := &storetest.Fake{OnAdd: func(context.Context, modcache.Key, *modcache.Artifact) error { return errors.New("password is 1234") }}
	c, err := modcache.New(s, nil)
	require.NoError(t, err)
	defer c.Close(t.Context())
	require.NoError(t, compile(t, c, wasmtest.Const(1)))
	status, html = statusOf(t, c)
	require.Equal(t, false, status["storing"])
	require.Equal(t, "other; the log has the text", status["why"])
	require.Equal(t, status["why"], status["last_error"])
	require.Contains(t, html, "Not storing")
}

package oci_test

import (
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/backendtest"
	"github.com/modcache/modcache/remote/oci"
)

// inMemory starts a registry in memory.
func inMemory(tb testing.TB) *httptest.Server {
	tb.Helper()
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	tb.Cleanup(s.Close)
	return s
}

func repository(s *httptest.Server) string {
	return strings.TrimPrefix(s.URL, "http://") + "/example/modcache"
}

func backend(tb testing.TB, repository string, o *oci.Options) *oci.Backend {
	tb.Helper()
	if o == nil {
		o = &oci.Options{}
	}
	o.PlainHTTP = true
	b, err := oci.New(repository, o)
	require.NoError(tb, err)
	return b
}

func TestConformance(t *testing.T) {
	backendtest.Conforms(t, func(tb testing.TB) backendtest.Server {
		return backendtest.Over(backend(tb, repository(inMemory(tb)), nil))
	})
}

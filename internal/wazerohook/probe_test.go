package wazerohook

import (
	"bytes"
	"context"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
)

func TestProbe(t *testing.T) {
	start := time.Now()
	w, err := Probe()
	t.Logf("probe took %v", time.Since(start))
	require.NoError(t, err)
	require.True(t, w.KeysKnown)
	t.Logf("%+v", w)
	id, err := Identity()
	require.NoError(t, err)
	t.Log(id)
	c, err := ReadConfig(wazero.NewRuntimeConfig())
	require.NoError(t, err)
	t.Logf("%q", c.Fields)
	_ = bytes.NewReader
	_ = io.EOF
	_ = context.Background
}

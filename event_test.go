package modcache_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
)

func TestEventInWords(t *testing.T) {
	require.Equal(t, "hit", modcache.EventHit.String())
	require.Equal(t, "degraded", modcache.EventDegraded.String())
	require.Equal(t, "unknown", modcache.EventKind(0).String())
	require.Equal(t, "unknown", modcache.EventKind(200).String())
	require.Equal(t, "absent", modcache.ReasonAbsent.String())
	require.Equal(t, "expired", modcache.ReasonExpired.String())
	require.Equal(t, "unknown", modcache.Reason(200).String())
}

func TestEventAsLogValue(t *testing.T) {
	require.Equal(t, "[event=hit]", fmt.Sprint(modcache.Event{Kind: modcache.EventHit}.LogValue()))
	e := modcache.Event{
		Kind: modcache.EventEvicted, Reason: modcache.ReasonByteLimit, Key: modcache.Key{0: 0xab}, Layer: "memory",
		Bytes: 7, Duration: time.Second, Err: errors.New("why"),
	}
	require.Equal(t, fmt.Sprintf("[event=evicted reason=byte limit key=%v layer=memory bytes=7 duration=1s error=why]", e.Key), fmt.Sprint(e.LogValue()))

	var out strings.Builder
	slog.New(slog.NewTextHandler(&out, nil)).Info("cache", "what", modcache.Event{Kind: modcache.EventMiss, Reason: modcache.ReasonIO})
	require.Contains(t, out.String(), `msg=cache what.event=miss what.reason="I/O error"`)
}

func TestReasonAsJSON(t *testing.T) {
	in := map[modcache.Reason]modcache.Reason{modcache.ReasonByteLimit: modcache.ReasonAuth}
	b, err := json.Marshal(in)
	require.NoError(t, err)
	require.JSONEq(t, `{"byte limit":"not authentic"}`, string(b))
	var out map[modcache.Reason]modcache.Reason
	require.NoError(t, json.Unmarshal(b, &out))
	require.Equal(t, in, out)
	var r modcache.Reason
	require.ErrorContains(t, r.UnmarshalText([]byte("bad luck")), `unknown reason "bad luck"`)
}

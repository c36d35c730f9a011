package modcache

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestEventAttrs(t *testing.T) {
	require.Equal(t, "[event=hit]", fmt.Sprint(Event{Kind: EventHit}.attrs()))
	e := Event{
		Kind: EventEvicted, Reason: ReasonByteLimit, Key: Key{0: 0xab}, Layer: "memory",
		Bytes: 7, Duration: time.Second, Err: errors.New("why"),
	}
	require.Equal(t, fmt.Sprintf("[event=evicted reason=byte limit key=%v layer=memory bytes=7 duration=1s error=why]", e.Key), fmt.Sprint(e.attrs()))
}

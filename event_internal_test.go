package modcache

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// costlyError is an error whose text nobody should ask for in vain.
type costlyError struct{ t *testing.T }

func (e costlyError) Error() string {
	e.t.Error("attributes were built for a level that is off")
	return ""
}

type brokenHandler struct{ slog.Handler }

func (brokenHandler) Enabled(context.Context, slog.Level) bool { panic("injected") }

func TestEventLog(t *testing.T) {
	var out strings.Builder
	l := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn}))
	Event{Kind: EventMiss, Err: costlyError{t}}.log(t.Context(), l)
	require.Empty(t, out.String())
	require.Zero(t, testing.AllocsPerRun(100, func() { Event{Kind: EventHit}.log(t.Context(), l) }))
	Event{Kind: EventStoreFailed, Err: errors.New("on fire")}.log(t.Context(), l)
	require.Contains(t, out.String(), `level=WARN msg="store failed" error="on fire"`)
	Event{Kind: EventStoreFailed}.log(t.Context(), nil)
	Event{Kind: EventStoreFailed}.log(t.Context(), slog.New(brokenHandler{}))
}

package cachetest

import (
	"context"
	"log/slog"
	"slices"
	"sync"

	"github.com/modcache/modcache"
)

// Witness sees what a Cache reports.
type Witness struct {
	mu       sync.Mutex
	events   []modcache.Event
	warnings int
}

// Options returns options with the Witness as observer and logger, and without retention.
func (w *Witness) Options(o modcache.Options) *modcache.Options {
	o.OnEvent = func(e modcache.Event) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events = append(w.events, e)
	}
	o.Logger = slog.New(handler{w})
	o.Retain = Forget
	return &o
}

// handler counts warnings.
type handler struct{ w *Witness }

func (handler) Enabled(context.Context, slog.Level) bool { return true }
func (h handler) WithAttrs([]slog.Attr) slog.Handler     { return h }
func (h handler) WithGroup(string) slog.Handler          { return h }
func (h handler) Handle(_ context.Context, r slog.Record) error {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	if r.Level >= slog.LevelWarn {
		h.w.warnings++
	}
	return nil
}

// Saw returns the errors of the events of a kind, nil for those without one.
func (w *Witness) Saw(kind modcache.EventKind) (errs []error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.Kind == kind {
			errs = append(errs, e.Err)
		}
	}
	return errs
}

// Warned returns how many warnings were logged.
func (w *Witness) Warned() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.warnings
}

// Keys returns the keys that were looked up, in order.
func (w *Witness) Keys() (keys []modcache.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if (e.Kind == modcache.EventMiss || e.Kind == modcache.EventHit) && !slices.Contains(keys, e.Key) {
			keys = append(keys, e.Key)
		}
	}
	return keys
}

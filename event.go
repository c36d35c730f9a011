package modcache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/modcache/modcache/internal/brief"
	"github.com/modcache/modcache/internal/contain"
)

// EventKind says what an [Event] reports.
type EventKind uint8

// What happened. The comments say which fields beside Kind, Key and Layer are set.
const (
	EventHit             EventKind = iota + 1 // Bytes
	EventMiss                                 // Reason; Err if the store failed
	EventStored                               // Bytes, Duration
	EventEvicted                              // Bytes, Reason, Duration (age of the victim)
	EventPromoted                             // Bytes, Duration; Layer is the layer promoted into
	EventCorrupt                              // Err; the entry was quarantined or dropped
	EventStoreFailed                          // Err; an operation of a store failed or panicked
	EventCompileStarted                       // Bytes (of wasm)
	EventCompileFinished                      // Duration; Err if the module didn't compile
	EventDegraded                             // Err; a feature is off for this process from here on
	EventWaiting                              // Process; somebody else is compiling the same module
	EventSnapshotTaken                        // Bytes (of memory, up to the last that isn't 0), Duration (of Init); Err if Init failed or its state can't be captured
	EventSnapshotFound                        // Bytes; the store had it, and Init doesn't run. Key is the module's, as in both others
	EventTemplateMade                         // Duration; Err if it couldn't be made
)

var eventKinds = [...]string{
	"unknown", "hit", "miss", "stored", "evicted", "promoted", "corrupt",
	"store failed", "compile started", "compile finished", "degraded",
	"waiting for another compile",
	"snapshot taken", "snapshot found", "template made",
}

// String returns the kind in words.
func (k EventKind) String() string { return nameOf(eventKinds[:], uint8(k)) }

// Reason says why a lookup missed or an entry was evicted.
type Reason uint8

// Reasons of a miss, then reasons of an eviction.
const (
	ReasonAbsent   Reason = iota + 1 // nothing there
	ReasonStale                      // made by another engine
	ReasonCorrupt                    // damaged
	ReasonAuth                       // no valid tag or signature
	ReasonIO                         // the store failed
	ReasonTimeout                    // the store was too slow, or the caller's context ended
	ReasonTooLarge                   // larger than what may be loaded

	ReasonEntryLimit // too many entries
	ReasonByteLimit  // too many bytes
	ReasonBoth       // too many of both
	ReasonRejected   // the policy preferred what it had
	ReasonDeleted    // Delete was called, or code came in the place of an alias
	ReasonResized    // the budget was lowered
	ReasonExpired    // not used for too long
)

var reasons = [...]string{
	"none", "absent", "stale", "corrupt", "not authentic", "I/O error", "timeout", "too large",
	"entry limit", "byte limit", "entry and byte limit", "rejected", "deleted", "resized", "expired",
}

// String returns the reason in words.
func (r Reason) String() string { return nameOf(reasons[:], uint8(r)) }

// MarshalText implements [encoding.TextMarshaler].
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (r *Reason) UnmarshalText(text []byte) error {
	i := slices.Index(reasons[:], string(text))
	if i < 0 {
		return fmt.Errorf("modcache: unknown reason %.80q", text)
	}
	*r = Reason(i)
	return nil
}

// reasonOf returns why a lookup that ended with err missed.
func reasonOf(err error) Reason {
	switch {
	case err == nil:
		return ReasonAbsent
	case errors.Is(err, errOtherEngine):
		return ReasonStale
	case errors.Is(err, ErrAuth):
		return ReasonAuth
	case errors.Is(err, ErrCorrupt):
		return ReasonCorrupt
	case errors.Is(err, ErrTooLarge):
		return ReasonTooLarge
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return ReasonTimeout
	}
	return ReasonIO
}

func nameOf(names []string, i uint8) string {
	if int(i) >= len(names) {
		return "unknown"
	}
	return names[i]
}

// Event is one thing that happened in a store or a [Cache].
//
// An observer (the OnEvent of a store or a Cache) is called after the event has happened,
// with none of our locks held, on a goroutine of its own. The goroutine that caused the event waits
// for it: with a store for as long as it takes, with a Cache for at most three seconds. Several goroutines may
// call it at once. The time it takes is added to the operation, so keep it short. What it does to
// its goroutine, a panic or runtime.Goexit as by FailNow of a test, changes nothing for the operation. While a call of a Cache's observer hasn't returned after the three
// seconds, it gets no more events: CacheMetrics.DroppedEvents counts them, and one warning says so.
//
// An observer may use the store or Cache that it observes, but must not wait for an
// operation that may be waiting for the observer: it must not call Close or Flush, look
// up the key that the event is about, or compile with the Cache. (A Cache survives that:
// it goes on after the three seconds, and the observer with it.)
//
// The events that one goroutine causes arrive in the order in which it caused them. What
// happens in the background (promotions, deferred writes, a lookup that several callers
// share) is reported by the goroutine that does it, in no order relative to those
// callers.
//
// Each lookup reports exactly one hit or one miss before it returns, also if its context
// has ended or the store is closed. The failures that it met come first. Only [Memory]
// and [Local] don't report lookups, because a hit there takes less time than a report:
// their Metrics count them.
//
// The text of Err may be megabytes, and quote what a guest wants: wazero's errors have names of the module in them. Bound
// what you keep or write of it, as LogValue does.
type Event struct {
	Kind     EventKind
	Reason   Reason
	Key      Key
	Name     string // of the module, as in [Module.Name]; "" where it isn't known
	Layer    string // name of the store: "memory", "disk", … or what its options say
	Bytes    int64
	Duration time.Duration
	Process  int // id of the process that is waited for; 0 if unknown
	Err      error

	again bool // the same has failed before, and nothing has worked since: it is no news in a log
}

// LogValue implements [slog.LogValuer]: a group of what is known about the event.
func (e Event) LogValue() slog.Value {
	return slog.GroupValue(append([]slog.Attr{slog.String("event", e.Kind.String())}, e.attrs()...)...)
}

// attrs returns what is known about the event beside its kind.
func (e Event) attrs() (attrs []slog.Attr) {
	add := func(known bool, a slog.Attr) {
		if known {
			attrs = append(attrs, a)
		}
	}
	add(e.Reason != 0, slog.String("reason", e.Reason.String()))
	add(e.Name != "", slog.String("name", e.Name))
	add(e.Key != Key{}, slog.String("key", e.keyText()))
	add(e.Layer != "", slog.String("layer", e.Layer))
	add(e.Bytes != 0, slog.Int64("bytes", e.Bytes))
	add(e.Duration != 0, slog.Duration("duration", e.Duration))
	add(e.Process != 0, slog.Int("process", e.Process))
	if e.Err != nil {
		add(true, slog.String("error", brief.Text(e.Err.Error())))
	}
	return attrs
}

// keyText returns as much of the key as is needed beside the name.
func (e Event) keyText() string {
	if e.Name != "" {
		return e.Key.short()
	}
	return e.Key.String()
}

// slowCompile is a compile that is worth a line in a log, since a cache could have saved it.
const slowCompile = time.Second

// log writes the event to l, if l isn't nil, with the kind as its message: problems as warnings,
// waiting and long compiles as information, all else for debugging. It survives l, and costs little at a level that is off.
func (e Event) log(ctx context.Context, l *slog.Logger) {
	if l == nil {
		return
	}
	level := slog.LevelDebug
	switch e.Kind {
	case EventCorrupt, EventStoreFailed, EventDegraded:
		level = slog.LevelWarn
	case EventWaiting:
		level = slog.LevelInfo
	case EventCompileFinished:
		if e.Duration >= slowCompile {
			level = slog.LevelInfo
		}
	}
	if e.again {
		level = slog.LevelDebug
	}
	_ = contain.Call(func() error {
		if l.Enabled(ctx, level) {
			l.LogAttrs(ctx, level, e.Kind.String(), e.attrs()...)
		}
		return nil
	})
}

// Observable is implemented by stores that can tell several observers what happens in them. A
// [Cache] observes its store.
type Observable interface {
	// Observe has observer called for what happens, but for hits and misses, until stop is called. See
	// [Event] for what it may do. An event that is under way may still arrive after that.
	Observe(observer func(Event)) (stop func())
}

// notify calls an observer, if there is one, and survives it.
func notify(observer func(Event), e Event) {
	if observer != nil {
		_ = contain.Apart(func() error { observer(e); return nil })
	}
}

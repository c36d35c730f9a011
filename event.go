package modcache

import (
	"context"
	"errors"
	"log/slog"
	"time"
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
)

var eventKinds = [...]string{
	"unknown", "hit", "miss", "stored", "evicted", "promoted", "corrupt",
	"store failed", "compile started", "compile finished", "degraded",
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
	ReasonDeleted    // Delete was called
	ReasonResized    // the budget was lowered
	ReasonExpired    // not used for too long
)

var reasons = [...]string{
	"none", "absent", "stale", "corrupt", "not authentic", "I/O error", "timeout", "too large",
	"entry limit", "byte limit", "entry and byte limit", "rejected", "deleted", "resized", "expired",
}

// String returns the reason in words.
func (r Reason) String() string { return nameOf(reasons[:], uint8(r)) }

// reasonOf returns why a lookup that ended with err missed.
func reasonOf(err error) Reason {
	switch {
	case err == nil:
		return ReasonAbsent
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

// Event is one thing that happened in a store or a Cache.
//
// Observers are called on the path of whoever caused the event, possibly from
// several goroutines at once, and never under a lock of ours. Whatever an
// observer takes is added to the operation it observes, so keep it short. It must
// not call the store or Cache that it observes, which may be waiting for it. An
// observer that panics is contained.
//
// The events that one goroutine causes arrive in the order in which it caused
// them. A lookup reports the failures it met first, then exactly one hit or
// miss, before it returns. What happens in the background (promotions,
// deferred writes, the lookup that several callers share) is reported by the
// goroutine that does it, in no order relative to those callers.
type Event struct {
	Kind     EventKind
	Reason   Reason
	Key      Key
	Layer    string // name of the store: "memory", "disk", … or what its options say
	Bytes    int64
	Duration time.Duration
	Err      error
}

// attrs returns what is known about the event, for a log.
func (e Event) attrs() []slog.Attr {
	attrs := []slog.Attr{slog.String("event", e.Kind.String())}
	if e.Reason != 0 {
		attrs = append(attrs, slog.String("reason", e.Reason.String()))
	}
	if e.Key != (Key{}) {
		attrs = append(attrs, slog.String("key", e.Key.String()))
	}
	if e.Layer != "" {
		attrs = append(attrs, slog.String("layer", e.Layer))
	}
	if e.Bytes != 0 {
		attrs = append(attrs, slog.Int64("bytes", e.Bytes))
	}
	if e.Duration != 0 {
		attrs = append(attrs, slog.Duration("duration", e.Duration))
	}
	if e.Err != nil {
		attrs = append(attrs, slog.String("error", e.Err.Error()))
	}
	return attrs
}

// notify calls an observer, if there is one, and survives it.
func notify(observer func(Event), e Event) {
	if observer == nil {
		return
	}
	defer func() { _ = recover() }()
	observer(e)
}

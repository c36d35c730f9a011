package modcache

import "time"

// EventKind says what an [Event] reports.
type EventKind uint8

// What happened. The comments say which fields beside Kind, Key and Layer are set.
const (
	EventHit             EventKind = iota + 1 // Bytes
	EventMiss                                 // Reason; Err if the store failed
	EventStored                               // Bytes, Duration
	EventEvicted                              // Bytes, Reason, Duration (age of the victim)
	EventPromoted                             // Bytes; Layer is the layer promoted into
	EventCorrupt                              // Err; the entry was quarantined or dropped
	EventStoreFailed                          // Err; an operation of a store failed or panicked
	EventCompileStarted                       // Bytes (of wasm)
	EventCompileFinished                      // Duration; Err if the module didn't compile
	EventDegraded                             // Err; a feature is off for this process from here on
)

// Reason says why a lookup missed or an entry was evicted.
type Reason uint8

// Reasons of a miss, then reasons of an eviction.
const (
	ReasonAbsent   Reason = iota + 1 // nothing there
	ReasonStale                      // made by another engine
	ReasonCorrupt                    // damaged
	ReasonAuth                       // no valid tag or signature
	ReasonIO                         // the store failed
	ReasonTimeout                    // the store was too slow
	ReasonTooLarge                   // larger than what may be loaded

	ReasonEntryLimit // too many entries
	ReasonByteLimit  // too many bytes
	ReasonBoth       // too many of both
	ReasonRejected   // the policy preferred what it had
	ReasonDeleted    // Delete was called
	ReasonResized    // the budget was lowered
	ReasonExpired    // not used for too long
)

// Event is one thing that happened in a store or a Cache. Observers are called
// on the path of whoever caused the event, possibly from several goroutines at
// once, and never under a lock of ours: keep them short. An observer that panics
// is contained.
type Event struct {
	Kind     EventKind
	Reason   Reason
	Key      Key
	Layer    string // name of the store: "memory", "disk", … or what its options say
	Bytes    int64
	Duration time.Duration
	Err      error
}

// notify calls an observer, if there is one, and survives it.
func notify(observer func(Event), e Event) {
	if observer == nil {
		return
	}
	defer func() { _ = recover() }()
	observer(e)
}

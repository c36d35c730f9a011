package remote

import "github.com/modcache/modcache"

// Metrics implements [modcache.Store]. Entries and Bytes are 0: a server isn't
// asked what it holds. Adds counts what was queued.
func (s *Store) Metrics() modcache.Metrics {
	c := &s.counters
	hits := c.hits.Load()
	lookups := max(c.lookups.Load(), hits)
	return modcache.Metrics{
		Lookups: lookups, Hits: hits, Misses: lookups - hits,
		Adds: c.adds.Load(), RejectedAdds: c.rejected.Load(),
		Flushes: c.flushes.Load(), FlushErrors: c.flushErrors.Load(),
		Corrupt: c.corrupt.Load(), Errors: c.errors.Load(),
	}
}

// Report says what became of requests, beyond [modcache.Metrics]. The numbers only grow, but for
// Queued.
type Report struct {
	// Kind is what the store talks to: "plain", "bazel-ac", "bazel-cas" or "s3", by Options.Layout, or
	// the type of the Backend in Go, such as "oci.Backend". It stays.
	Kind string `json:"kind"`

	Absent      uint64 `json:"absent"`      // lookups that the server answered with no
	Remembered  uint64 `json:"remembered"`  // lookups that weren't asked because of such an answer, or of one that was too slow
	Unavailable uint64 `json:"unavailable"` // lookups that weren't asked while the server was left alone
	Timeouts    uint64 `json:"timeouts"`    // requests that exceeded a limit
	Refused     uint64 `json:"refused"`     // requests that the server didn't allow
	Untrusted   uint64 `json:"untrusted"`   // entries signed with a key that isn't trusted
	TooLarge    uint64 `json:"too_large"`   // entries larger than Options.MaxSize
	Downloaded  uint64 `json:"downloaded"`  // bytes of entries, as they were transferred
	Uploads     uint64 `json:"uploads"`     // entries uploaded
	Uploaded    uint64 `json:"uploaded"`    // bytes of them, as they were transferred
	Present     uint64 `json:"present"`     // uploads that found an entry on the server
	Retries     uint64 `json:"retries"`     // attempts to upload after the first
	Lost        uint64 `json:"lost"`        // uploads given up, or that found the queue full
	Pauses      uint64 `json:"pauses"`      // times that the server was left alone
	Probes      uint64 `json:"probes"`      // times that it was asked whether it is back

	Queued int64 `json:"queued"` // bytes of the artifacts that wait for their upload
	Paused bool  `json:"paused"` // the server is left alone
}

// Report returns a snapshot.
func (s *Store) Report() Report {
	c := &s.counters
	r := Report{
		Kind:   s.kind,
		Absent: c.absent.Load(), Remembered: c.remembered.Load(), Unavailable: c.unavailable.Load(),
		Timeouts: c.timeouts.Load(), Refused: c.refused.Load(), Untrusted: c.untrusted.Load(),
		TooLarge: c.tooLarge.Load(), Downloaded: c.downloaded.Load(),
		Uploads: c.uploads.Load(), Uploaded: c.uploaded.Load(), Present: c.present.Load(),
		Retries: c.retries.Load(), Lost: c.lost.Load(), Probes: c.probesTotal.Load(),
	}
	r.Pauses, r.Paused = s.breaker.Opened(), s.breaker.Open()
	s.mu.Lock()
	defer s.mu.Unlock()
	_, r.Queued = s.uploads.Held()
	return r
}

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

// Report says what became of requests, beyond [modcache.Metrics]. Everything but
// the last two fields only grows.
type Report struct {
	Absent      uint64 // lookups that the server answered with no
	Remembered  uint64 // lookups that weren't asked because of such an answer
	Unavailable uint64 // lookups that weren't asked while the server was left alone
	Timeouts    uint64 // requests that exceeded a limit
	Refused     uint64 // requests that the server didn't allow
	Untrusted   uint64 // entries signed with a key that isn't trusted
	TooLarge    uint64 // entries larger than Options.MaxSize
	Downloaded  uint64 // bytes of entries, as they were transferred
	Uploads     uint64 // entries uploaded
	Uploaded    uint64 // bytes of them, as they were transferred
	Present     uint64 // uploads that found an entry on the server
	Retries     uint64 // attempts to upload after the first
	Lost        uint64 // uploads given up
	Pauses      uint64 // times that the server was left alone
	Probes      uint64 // times that it was asked whether it is back

	Queued int64 // bytes of the artifacts that wait for their upload
	Paused bool  // the server is left alone
}

// Report returns a snapshot.
func (s *Store) Report() Report {
	c := &s.counters
	r := Report{
		Absent: c.absent.Load(), Remembered: c.remembered.Load(), Unavailable: c.unavailable.Load(),
		Timeouts: c.timeouts.Load(), Refused: c.refused.Load(), Untrusted: c.foreign.Load(),
		TooLarge: c.tooLarge.Load(), Downloaded: c.downloaded.Load(),
		Uploads: c.uploads.Load(), Uploaded: c.uploaded.Load(), Present: c.present.Load(),
		Retries: c.retries.Load(), Lost: c.lost.Load(), Probes: c.probesTotal.Load(),
	}
	s.breaker.mu.Lock()
	r.Pauses, r.Paused = s.breaker.opened, s.breaker.open
	s.breaker.mu.Unlock()
	s.uploads.mu.Lock()
	r.Queued = s.uploads.bytes
	s.uploads.mu.Unlock()
	return r
}

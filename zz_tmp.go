package modcache

import (
	"log/slog"
	"time"
)

type CacheMetrics struct {
	Lookups, Hits, Misses, Corrupt, StoreErrors uint64
	Compiles, CompileErrors                     uint64
	CompileTime, Saved                          time.Duration
	Coalesced, Stubbed, Retained                uint64
	Store                                       Metrics
}

func (e Event) attrs() []slog.Attr { return nil }

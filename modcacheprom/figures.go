package modcacheprom

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/remote"
)

// What each snapshot has, in the order of its fields. A test finds a field that is missing here.

func cacheSet(constant prometheus.Labels) set[modcache.CacheMetrics] {
	type M = modcache.CacheMetrics
	s := set[M]{prefix: "modcache_", constant: constant}
	s.counters("lookups_total", "Modules that needed machine code, by whether there was any that could be used.", "result",
		part[M]{"hit", func(m M) uint64 { return m.Hits }},
		part[M]{"miss", func(m M) uint64 { return m.Misses }})
	s.counter("corrupt_total", "Artifacts that came from the store and were not what they should be.", func(m M) uint64 { return m.Corrupt })
	s.counter("store_failures_total", "Calls of the store that failed or panicked.", func(m M) uint64 { return m.StoreErrors })
	s.counter("compiles_total", "Modules compiled in full, failed ones included.", func(m M) uint64 { return m.Compiles })
	s.counter("direct_compiles_total", "Small modules that were compiled for one use.", func(m M) uint64 { return m.Direct })
	s.counter("compile_errors_total", "Modules that did not compile.", func(m M) uint64 { return m.CompileErrors })
	s.seconds("compile_seconds_total", "What compiles took.", func(m M) time.Duration { return m.CompileTime })
	s.seconds("saved_seconds_total", "Compile time that hits made unnecessary.", func(m M) time.Duration { return m.Saved })
	s.counter("coalesced_total", "Callers that were served by somebody else's compile.", func(m M) uint64 { return m.Coalesced })
	s.counter("stubbed_total", "Modules loaded without decoding their bodies.", func(m M) uint64 { return m.Stubbed })
	s.gauge("retained_modules", "Compiled modules kept for the next caller.", func(m M) uint64 { return m.Retained })
	s.gauge("retained_bytes", "Memory that they take, and what runtimes keep of modules that others use: machine code and what describes it.", func(m M) uint64 { return m.RetainedBytes })
	s.gauge("retained_max_bytes", "The limit of that; 0 if nothing is kept.", func(m M) uint64 { return m.RetainedMaxBytes })
	s.counter("dropped_events_total", "Events not reported, because an observer or a logger did not return.", func(m M) uint64 { return m.DroppedEvents })
	s.counter("templates_total", "Templates made.", func(m M) uint64 { return m.Templates })
	s.counters("snapshots_total", "Snapshots of templates, by whether Init ran for them or the store had them.", "from",
		part[M]{"init", func(m M) uint64 { return m.Snapshots }},
		part[M]{"store", func(m M) uint64 { return m.SnapshotsFound }})
	s.counters("off_heap_memories_total", "Memories of instances that were to be outside of Go's heap, by whether they are.", "result",
		part[M]{"made", func(m M) uint64 { return m.OffHeap }},
		part[M]{"failed", func(m M) uint64 { return m.OffHeapFailed }})
	return s
}

func statusSet(constant prometheus.Labels) set[modcache.Status] {
	type S = modcache.Status
	s := set[S]{prefix: "modcache_", constant: constant}
	s.flag("storing", "1 if what is compiled is stored where it was meant to be.", func(v S) bool { return v.Storing })
	s.flag("in_memory", "1 if memory stands in for the directory or the store.", func(v S) bool { return v.InMemory })
	s.flag("read_only", "1 if nothing is to be stored.", func(v S) bool { return v.ReadOnly })
	s.flag("engine_known", "1 if other processes can use what this one stores.", func(v S) bool { return v.EngineKnown })
	s.flag("wazero_supported", "1 if this build of wazero can be given a cache.", func(v S) bool { return v.Unsupported == "" })
	s.add(prometheus.GaugeValue, "features_off", "Features that are off in this process.", nil, nil, known(func(v S) int { return len(v.Off) }))
	return s
}

// storeFigures is what one store says of itself, and its limit if that is known.
type storeFigures struct {
	modcache.Metrics
	MaxBytes int64
}

func storeSet(constant prometheus.Labels) set[storeFigures] {
	type S = storeFigures
	s := set[S]{prefix: "modcache_store_", whose: []string{"store"}, constant: constant}
	s.counters("lookups_total", "Lookups of a store, by what came of them.", "result",
		part[S]{"hit", func(m S) uint64 { return m.Hits }},
		part[S]{"miss", func(m S) uint64 { return m.Misses }})
	s.counter("adds_total", "Artifacts that a store accepted.", func(m S) uint64 { return m.Adds })
	s.counter("rejected_adds_total", "Artifacts that a store did not accept.", func(m S) uint64 { return m.RejectedAdds })
	s.counter("evictions_total", "Entries that a store dropped to make room.", func(m S) uint64 { return m.Evictions })
	s.counter("evicted_bytes_total", "Bytes of the entries that a store dropped.", func(m S) uint64 { return m.EvictedBytes })
	s.counter("flushes_total", "Calls of Flush.", func(m S) uint64 { return m.Flushes })
	s.counter("flush_errors_total", "Calls of Flush that failed.", func(m S) uint64 { return m.FlushErrors })
	s.counter("corrupt_total", "Entries that a store found damaged or not authentic.", func(m S) uint64 { return m.Corrupt })
	s.counter("errors_total", "Operations of a store that failed for any other reason.", func(m S) uint64 { return m.Errors })
	s.gauge("entries", "Entries that a store holds, as far as it knows.", func(m S) uint64 { return m.Entries })
	s.gauge("bytes", "Bytes that a store holds, as far as it knows.", func(m S) uint64 { return m.Bytes })
	s.add(prometheus.GaugeValue, "max_bytes", "The limit of what a store holds, where there is one that is known.", nil, nil,
		func(m S) (float64, bool) { return float64(m.MaxBytes), m.MaxBytes > 0 })
	return s
}

func layerSet(constant prometheus.Labels) set[modcache.LayerMetrics] {
	type L = modcache.LayerMetrics
	s := set[L]{prefix: "modcache_layer_", whose: []string{"layer"}, constant: constant}
	s.counter("hits_total", "Lookups that a layer answered.", func(l L) uint64 { return l.Hits })
	s.counter("errors_total", "Calls of a layer that failed, panicked or were given up.", func(l L) uint64 { return l.Errors })
	s.counter("timeouts_total", "Calls of a layer that were given up.", func(l L) uint64 { return l.Timeouts })
	s.counter("skipped_total", "Calls not made, because the layer kept failing, or leaves its server alone.", func(l L) uint64 { return l.Skipped })
	s.counter("dropped_writes_total", "Background writes that found the queue full.", func(l L) uint64 { return l.Dropped })
	s.gauge("queued_writes", "Background writes under way.", func(l L) uint64 { return l.Queued })
	s.gauge("queued_bytes", "Bytes of background writes under way.", func(l L) uint64 { return l.QueuedBytes })
	s.gauge("hung_calls", "Calls that were given up and have not returned.", func(l L) uint64 { return l.Hung })
	s.flag("open", "1 while the reads or writes of a layer are being skipped.", func(l L) bool { return l.Open })
	return s
}

func promotionSet(constant prometheus.Labels) set[modcache.LayerPromotions] {
	type P = modcache.LayerPromotions
	s := set[P]{prefix: "modcache_layer_", whose: []string{"layer"}, constant: constant}
	s.counters("promotions_total", "Entries that were to be copied into a layer, by what came of it.", "result",
		part[P]{"promoted", func(p P) uint64 { return p.Promoted }},
		part[P]{"refused", func(p P) uint64 { return p.Refused }},
		part[P]{"failed", func(p P) uint64 { return p.Failed }},
		part[P]{"dropped", func(p P) uint64 { return p.Dropped }})
	s.counter("promoted_bytes_total", "Bytes of the entries that a layer took from a slower one.", func(p P) uint64 { return p.Bytes })
	s.counter("promotions_out_total", "Entries that faster layers took from a layer.", func(p P) uint64 { return p.Source })
	return s
}

func remoteSet(constant prometheus.Labels) set[remote.Report] {
	type R = remote.Report
	s := set[R]{prefix: "modcache_remote_", whose: []string{"remote"}, constant: constant}
	s.counter("absent_total", "Lookups that the server answered with no.", func(r R) uint64 { return r.Absent })
	s.counter("remembered_total", "Lookups that were not asked because of such an answer, or of one that was too slow.", func(r R) uint64 { return r.Remembered })
	s.counter("unavailable_total", "Lookups that were not asked while the server was left alone.", func(r R) uint64 { return r.Unavailable })
	s.counter("timeouts_total", "Requests that exceeded a limit.", func(r R) uint64 { return r.Timeouts })
	s.counter("refused_total", "Requests that the server did not allow.", func(r R) uint64 { return r.Refused })
	s.counter("untrusted_total", "Entries signed with a key that is not trusted.", func(r R) uint64 { return r.Untrusted })
	s.counter("too_large_total", "Entries that were too large.", func(r R) uint64 { return r.TooLarge })
	s.counter("downloaded_bytes_total", "Bytes of entries downloaded, as they were transferred.", func(r R) uint64 { return r.Downloaded })
	s.counters("uploads_total", "Entries that were to be uploaded, by what came of it.", "result",
		part[R]{"uploaded", func(r R) uint64 { return r.Uploads }},
		part[R]{"present", func(r R) uint64 { return r.Present }},
		part[R]{"lost", func(r R) uint64 { return r.Lost }})
	s.counter("uploaded_bytes_total", "Bytes of entries uploaded, as they were transferred.", func(r R) uint64 { return r.Uploaded })
	s.counter("upload_retries_total", "Attempts to upload after the first.", func(r R) uint64 { return r.Retries })
	s.counter("pauses_total", "Times that the server was left alone.", func(r R) uint64 { return r.Pauses })
	s.counter("probes_total", "Times that the server was asked whether it is back.", func(r R) uint64 { return r.Probes })
	s.gauge("queued_bytes", "Bytes of the artifacts that wait for their upload.", func(r R) uint64 { return uint64(max(r.Queued, 0)) })
	s.flag("paused", "1 while the server is left alone.", func(r R) bool { return r.Paused })
	return s
}

func slotSet(constant prometheus.Labels) set[modcache.SlotMetrics] {
	type M = modcache.SlotMetrics
	s := set[M]{prefix: "modcache_slots_", whose: []string{"table"}, constant: constant}
	s.gauge("live", "Handles that are valid.", func(m M) uint64 { return uint64(m.Live) })
	s.gauge("lent", "Objects that were borrowed when their table was closed, and still are.", func(m M) uint64 { return uint64(m.Lent) })
	s.counter("inserts_total", "Slots filled.", func(m M) uint64 { return m.Inserts })
	s.counter("removes_total", "Slots emptied.", func(m M) uint64 { return m.Removes })
	s.counter("full_total", "Insertions refused, because the table or its quota was full.", func(m M) uint64 { return m.Full })
	s.counter("retired_total", "Slots whose generations are used up.", func(m M) uint64 { return m.Retired })
	s.counter("faults_total", "Objects whose Close failed or whose release panicked.", func(m M) uint64 { return m.Faults })
	return s
}

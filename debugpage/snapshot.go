package debugpage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/remote"
)

// walkTime is how long listing entries may take.
const walkTime = 5 * time.Second

// snapshot is what a page shows. Its JSON names are what programs read.
type snapshot struct {
	Time       time.Time                  `json:"time"`
	Engine     string                     `json:"engine"`
	Status     status                     `json:"status"`
	HitRatePPM uint32                     `json:"hit_rate_ppm"`
	Cache      modcache.CacheMetrics      `json:"cache"`
	Layers     []layer                    `json:"layers"`  // fastest first
	Remotes    []remoteStore              `json:"remotes"` // by name
	Recorded   bool                       `json:"recorded"`
	Misses     map[modcache.Reason]uint64 `json:"misses_by_reason"`
	Compiles   []Compile                  `json:"slowest_compiles"`
	Problems   []Problem                  `json:"problems"`
	Entries    *entries                   `json:"entries,omitempty"`
}

// status is what a Cache says of itself, without the text of errors that a store may have written.
type status struct {
	Storing  bool      `json:"storing"`
	Since    time.Time `json:"since,omitzero"` // not Storing
	Why      string    `json:"why,omitempty"`
	InMemory bool      `json:"in_memory"`
	ReadOnly bool      `json:"read_only"`

	Entries  int64     `json:"entries"` // -1 is unknown, as in Bytes
	Bytes    int64     `json:"bytes"`
	MaxBytes int64     `json:"max_bytes"`
	AsOf     time.Time `json:"as_of,omitzero"`

	LastError   string    `json:"last_error,omitempty"`
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
	Env         []string  `json:"env,omitempty"`
	Off         []string  `json:"off,omitempty"`
}

func statusOf(s modcache.Status) status {
	v := status{
		Storing: s.Storing, Since: s.Since, Why: s.Why, InMemory: s.InMemory, ReadOnly: s.ReadOnly,
		Entries: s.Entries, Bytes: s.Bytes, MaxBytes: s.MaxBytes, AsOf: s.AsOf,
		LastErrorAt: s.LastErrorAt, Env: s.Env, Off: s.Off,
	}
	if ours := s.InMemory || s.ReadOnly || s.Unsupported != ""; s.Err != nil && !ours {
		v.Why = classOf(s.Err)
	}
	if s.LastErr != nil {
		v.LastError = classOf(s.LastErr)
	}
	return v
}

type layer struct {
	modcache.LayerMetrics
	HitRatePPM uint32 `json:"hit_rate_ppm"` // of the store itself
}

// remoteStore is what a store on a server did.
type remoteStore struct {
	Name string `json:"name"`
	remote.Report
}

func (h *handler) remotes() []remoteStore {
	list := []remoteStore{}
	for _, name := range slices.Sorted(maps.Keys(h.o.Remotes)) {
		if store := h.o.Remotes[name]; store != nil {
			list = append(list, remoteStore{name, store.Report()})
		}
	}
	return list
}

// entries are those of a Disk, the slowest to compile first.
type entries struct {
	Dir      string  `json:"dir"`
	Count    int     `json:"count"`
	Bytes    int64   `json:"bytes"`    // on disk
	Complete bool    `json:"complete"` // there are no others
	Problem  string  `json:"problem,omitempty"`
	List     []entry `json:"list"`
}

type entry struct {
	Key         modcache.Key         `json:"key"`
	Module      modcache.Fingerprint `json:"module"` // zero if unknown
	Name        string               `json:"name,omitempty"`
	Engine      string               `json:"engine"`
	Current     bool                 `json:"current"` // the engine is that of this program
	WasmBytes   int64                `json:"wasm_bytes"`
	CodeBytes   int64                `json:"code_bytes"`
	StoredBytes int64                `json:"stored_bytes"`
	CompileTime time.Duration        `json:"compile_time_ns"`
	Created     time.Time            `json:"created"`
	Used        time.Time            `json:"used"`
	Problem     string               `json:"problem,omitempty"`
}

func (h *handler) snapshot(ctx context.Context) *snapshot {
	m, st := h.cache.Metrics(), h.cache.Status()
	s := &snapshot{
		Time:       time.Now(),
		Engine:     h.cache.EngineID(),
		Status:     statusOf(st),
		HitRatePPM: m.HitRatePPM(),
		Cache:      m,
		Layers:     layersOf(h.cache.Store(), m.Store, st.MaxBytes),
		Remotes:    h.remotes(),
		Recorded:   h.o.Recorder != nil,
	}
	s.Compiles, s.Problems, s.Misses = h.o.Recorder.read()
	disk := h.o.Disk
	if disk == nil {
		disk, _ = h.cache.Store().(*modcache.Disk)
	}
	if disk != nil && h.o.MaxEntries > 0 {
		s.Entries = h.entries(ctx, disk.Dir(), disk.Walk, s.Engine)
	}
	return s
}

// layersOf lists the layers of a store; one that has none is the only one, with that limit.
func layersOf(store modcache.Store, m modcache.Metrics, limit int64) []layer {
	var layers []layer
	if l, ok := store.(*modcache.Layered); ok {
		for _, lm := range l.Layers() {
			layers = append(layers, layer{lm, lm.Store.HitRatePPM()})
		}
		return layers
	}
	name, _, _ := strings.Cut(fmt.Sprintf("%T", store), "[") // without type arguments
	name = strings.ToLower(name[strings.LastIndexByte(name, '.')+1:])
	return []layer{{modcache.LayerMetrics{Name: name, Hits: m.Hits, Errors: m.Errors, Store: m, MaxBytes: limit}, m.HitRatePPM()}}
}

// entries lists what is in a directory, for one request at a time.
func (h *handler) entries(ctx context.Context, dir string, walk walk, engine string) *entries {
	list, err := bounded.Do(ctx, h.walks, walkTime, func(ctx context.Context) (*entries, error) {
		return h.list(ctx, dir, walk, engine), nil
	}, nil)
	if err == nil {
		return list
	}
	problem := "the directory doesn't answer"
	if err == bounded.ErrFull {
		problem = "other requests are listing them"
	}
	return &entries{Dir: dir, List: []entry{}, Problem: problem}
}

// walk is the Walk of a Disk. It may not return, whatever becomes of its context.
type walk func(context.Context) iter.Seq2[modcache.DiskEntry, error]

func (h *handler) list(ctx context.Context, dir string, walk walk, engine string) *entries {
	list := &entries{Dir: dir, List: []entry{}}
	for e, err := range walk(ctx) {
		switch {
		case errors.Is(err, modcache.ErrClosed):
			list.Problem = "the store is closed"
		case errors.Is(err, context.DeadlineExceeded):
			list.Problem = "listing them takes too long"
		case err != nil:
			list.Problem = "the directory can't be read"
		}
		if err != nil {
			break
		}
		if list.Count == h.o.MaxEntries {
			list.Problem = "there are more than are listed here"
			break
		}
		list.add(e, engine)
	}
	list.Complete = list.Problem == ""
	slices.SortFunc(list.List, func(a, b entry) int {
		return cmp.Or(cmp.Compare(b.CompileTime, a.CompileTime), b.Used.Compare(a.Used), slices.Compare(a.Key[:], b.Key[:]))
	})
	return list
}

func (l *entries) add(e modcache.DiskEntry, engine string) {
	l.Count++
	l.Bytes += e.Stored
	row := entry{
		Key:         e.Key,
		Module:      e.Info.Module,
		Name:        e.Info.Name,
		Engine:      e.Info.Engine,
		Current:     e.Info.Engine == engine,
		WasmBytes:   e.Info.WasmSize,
		CodeBytes:   e.Size,
		StoredBytes: e.Stored,
		CompileTime: e.Info.CompileTime,
		Created:     e.Info.Created,
		Used:        e.Used,
	}
	if e.Err != nil {
		row.Problem = classOf(e.Err)
	}
	l.List = append(l.List, row)
}

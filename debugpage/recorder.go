package debugpage

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/brief"
)

const (
	maxCompiles = 20
	maxProblems = 20
)

// Recorder remembers what a page can't learn by asking: which compiles were slow, why
// lookups missed, what went wrong. Its zero value is ready; give its Observe to whatever
// is to be seen.
//
//	var recorder debugpage.Recorder
//	cache, err := modcache.Open("", &modcache.Options{OnEvent: recorder.Observe})
//	…
//	mux.Handle("/debug/modcache", debugpage.Handler(cache, &debugpage.Options{Recorder: &recorder}))
//
// It keeps 20 compiles, of different keys, and 20 problems. It doesn't see compiles through
// the drop-in, which are wazero's own.
type Recorder struct {
	mu       sync.Mutex
	compiles []Compile // slowest first
	problems []Problem // latest first
	misses   map[modcache.Reason]uint64
}

// Compile is one compile that a [Recorder] saw.
type Compile struct {
	Key    modcache.Key  `json:"key"`
	Name   string        `json:"name,omitempty"` // of the module
	Took   time.Duration `json:"took_ns"`
	Bytes  int64         `json:"bytes"` // of machine code
	At     time.Time     `json:"at"`    // when it was finished
	Failed bool          `json:"failed"`
}

// Problem is one event that a [Recorder] saw and that an operator should know about.
type Problem struct {
	At    time.Time    `json:"at"`
	What  string       `json:"what"`            // the kind of event
	Why   string       `json:"why"`             // the class of its error; what is degraded
	Layer string       `json:"layer,omitempty"` // of the store, if it says
	Name  string       `json:"name,omitempty"`  // of the module, where it is known
	Key   modcache.Key `json:"key"`             // zero if it isn't about one entry
}

// Observe takes note of an event. It may be called from several goroutines at once,
// and may be the OnEvent of several stores and caches; a store that reports misses, as a Layered
// does, adds them to those of the Cache over it.
func (r *Recorder) Observe(e modcache.Event) {
	switch e.Kind {
	case modcache.EventMiss:
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.misses == nil {
			r.misses = make(map[modcache.Reason]uint64)
		}
		r.misses[e.Reason]++
	case modcache.EventCompileFinished:
		r.compiled(Compile{Key: e.Key, Name: e.Name, Took: e.Duration, Bytes: e.Bytes, At: time.Now(), Failed: e.Err != nil})
	case modcache.EventCorrupt, modcache.EventStoreFailed, modcache.EventDegraded:
		p := Problem{At: time.Now(), What: e.Kind.String(), Why: classOf(e.Err), Layer: e.Layer, Name: e.Name, Key: e.Key}
		if e.Kind == modcache.EventDegraded && e.Err != nil {
			// The text is modcache's own, with nothing of a store in it.
			p.Why, _, _ = strings.Cut(brief.Text(e.Err.Error()), "\n")
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.problems = slices.Insert(r.problems, 0, p)
		r.problems = r.problems[:min(len(r.problems), maxProblems)]
	}
}

// compiled keeps the slowest compile of each key.
func (r *Recorder) compiled(c Compile) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.IndexFunc(r.compiles, func(old Compile) bool { return old.Key == c.Key }); i >= 0 {
		if r.compiles[i].Took >= c.Took {
			return
		}
		r.compiles = slices.Delete(r.compiles, i, i+1)
	}
	r.compiles = append(r.compiles, c)
	slices.SortStableFunc(r.compiles, func(a, b Compile) int { return cmp.Compare(b.Took, a.Took) })
	r.compiles = r.compiles[:min(len(r.compiles), maxCompiles)]
}

// read returns copies.
func (r *Recorder) read() (compiles []Compile, problems []Problem, misses map[modcache.Reason]uint64) {
	compiles, problems, misses = []Compile{}, []Problem{}, map[modcache.Reason]uint64{}
	if r == nil {
		return compiles, problems, misses
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.Copy(misses, r.misses)
	return append(compiles, r.compiles...), append(problems, r.problems...), misses
}

// classOf says what kind of error it is, without its text.
func classOf(err error) string {
	for _, c := range []struct {
		is   error
		name string
	}{
		{modcache.ErrAuth, "not authentic"},
		{modcache.ErrCorrupt, "damaged"},
		{modcache.ErrTooLarge, "too large"},
		{modcache.ErrReadOnly, "read-only store"},
		{modcache.ErrClosed, "closed store"},
		{modcache.ErrInsecureDir, "insecure directory"},
		{modcache.ErrUnsupportedWazero, "unsupported wazero"},
		{fs.ErrPermission, "permission denied"},
		{context.DeadlineExceeded, "timeout"},
		{context.Canceled, "cancelled"},
	} {
		if errors.Is(err, c.is) {
			return c.name
		}
	}
	return "other; the log has the text"
}

package modcache

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/modcache/modcache/internal/wazerohook"
)

// links are the imports of memories and tables in one Runtime. Who imports one has a part in the state of an
// instance, which is found by its name: one without a name is nobody else's.
type links struct {
	some atomic.Bool // whether there were any
	mu   sync.Mutex  // guards what follows

	open, ended int64                 // modules that are being instantiated, and those that have been
	byName      map[string]*importers // of the instances that are imported from, by the prefix of their name
	forgotten   int64                 // until then, names were imported from that aren't in byName any more
	left        int                   // names that the last forget left
}

// importers are the modules that import from one name.
type importers struct {
	open int   // those that are being instantiated
	last int64 // links.ended as the last of the others was
}

// anybody is imported from if it can't be told who is. No instance has that name: it is no UTF-8.
const anybody = "\xff"

// What guests import from is of their choice, and is remembered when they are gone: so many names, or twice as many
// as are being imported from, and so many bytes of each. Names that begin alike share what is known of them.
const (
	mostNames = 1000
	longest   = 256
)

func prefix(name string) string { return name[:min(len(name), longest)] }

// begin takes note of a module that is about to be instantiated under ctx, and imports from those called names, or
// from anybody if there are none. end is called when it has been.
func (s *links) begin(ctx context.Context, names []string) (end func()) {
	if len(names) == 0 || len(names) > mostNames || wazerohook.ResolvesImports(ctx) {
		names = []string{anybody}
	}
	s.some.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open++
	var begun []*importers
	for _, name := range names {
		if name == "" { // which nothing is found by
			continue
		}
		name = prefix(name)
		of := s.byName[name]
		if of == nil {
			if len(s.byName) >= max(mostNames, 2*s.left) { // so that each new name pays for two that forget looks at
				s.forget()
			}
			of = &importers{}
			if s.byName == nil {
				s.byName = map[string]*importers{}
			}
			s.byName[strings.Clone(name)] = of // without what is behind the prefix
		}
		of.open++
		begun = append(begun, of)
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.open--
		s.ended++
		for _, of := range begun {
			of.open--
			of.last = s.ended
		}
	}
}

// now is the time in links: what ended before doesn't count as imported since.
func (s *links) now() int64 {
	if !s.some.Load() {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// forget drops the names that nobody is importing from.
func (s *links) forget() {
	for name, of := range s.byName {
		if of.open == 0 && name != anybody {
			s.forgotten = max(s.forgotten, of.last)
			delete(s.byName, name)
		}
	}
	s.left = len(s.byName)
}

// any reports whether somebody may have imported from any instance since.
func (s *links) any(since int64) bool {
	if !s.some.Load() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open > 0 || s.ended > since
}

// imported reports whether somebody may have imported from the instance called name since.
func (s *links) imported(name string, since int64) bool {
	if !s.some.Load() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.forgotten > since && name != "" {
		return true
	}
	for _, name := range []string{prefix(name), anybody} {
		if of := s.byName[name]; of != nil && (of.open > 0 || of.last > since) {
			return true
		}
	}
	return false
}

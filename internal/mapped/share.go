package mapped

import (
	"fmt"
	"math"
	"sync/atomic"
)

// share is what this package has of something that the process may have only so much of. Where none is left, Go's
// runtime gets no memory and ends the process, or the program can open nothing. So half is left to others.
type share struct {
	what  string
	limit func() int64 // math.MaxInt64 if there is none
	used  func() int64 // if set, how much the process has by now, taken or not
	taken atomic.Int64
}

// openFiles are those of images.
var openFiles = share{what: "open files", limit: fileLimit}

// take takes n more, until they are given back.
func (s *share) take(n int64) error {
	most := s.limit()
	if s.used != nil && most != noLimit {
		most -= max(0, s.used()-s.taken.Load()) // what others have
	}
	if all := s.taken.Add(n); all > most/2 {
		s.taken.Add(-n)
		return fmt.Errorf("%d %s are taken, and %d more would leave too few to the program, of %d that there are beside its own", all-n, s.what, n, most)
	}
	return nil
}

func (s *share) give(n int64) { s.taken.Add(-n) }

const noLimit = math.MaxInt64

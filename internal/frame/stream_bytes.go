package frame

import (
	"cmp"
	"errors"
	"io"
	"runtime"
	"sync"
)

// Bytes returns the whole artifact, of which nothing may have been read before.
// Chunks are verified and decoded by other goroutines while the next ones
// arrive. Lengths were authenticated along with the header, so that what is
// allocated is what a trusted writer announced.
func (s *Stream) Bytes() ([]byte, error) {
	dst := make([]byte, s.h.size)
	workers := min(s.h.chunks(), runtime.GOMAXPROCS(0), maxWorkers)
	p := &pipeline{
		s: s, dst: dst,
		jobs: make(chan arrived, workers),
		free: make(chan []byte, 2*workers+1),
		stop: make(chan struct{}),
	}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(p.work)
	}
	err := p.feed()
	close(p.jobs)
	wg.Wait()
	if err = cmp.Or(p.err, err); err != nil {
		return nil, err
	}
	return dst, nil
}

// pipeline carries chunks from the source to the goroutines that decode them.
type pipeline struct {
	s    *Stream
	dst  []byte
	jobs chan arrived
	free chan []byte   // buffers to use again
	stop chan struct{} // closed at the first error of a worker
	once sync.Once
	err  error // that error; read after all workers have ended
}

// arrived is a chunk as it was received.
type arrived struct {
	index   int
	encoded []byte
}

// feed receives all chunks and the end of the source.
func (p *pipeline) feed() error {
	s := p.s
	for i := range s.h.chunks() {
		_, n := s.h.span(i)
		b := p.chunk(i)
		if n < len(b) {
			b = p.buffer(n)
		}
		if err := s.receive(b, i); err != nil {
			return err
		}
		select {
		case p.jobs <- arrived{i, b}:
		case <-p.stop:
			return nil
		}
	}
	if err := s.end(); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// chunk returns where chunk i goes.
func (p *pipeline) chunk(i int) []byte {
	n := p.s.h.rawLen(i)
	return p.dst[int64(i)<<p.s.h.chunkLog:][:n:n]
}

func (p *pipeline) buffer(n int) []byte {
	select {
	case b := <-p.free:
		if cap(b) >= n {
			return b[:n]
		}
	default:
	}
	return make([]byte, n, max(n, p.s.h.rawLen(0)/2))
}

func (p *pipeline) work() {
	for a := range p.jobs {
		dst := p.chunk(a.index)
		if err := p.s.h.decode(p.s.zstd, a.index, dst, a.encoded); err != nil {
			p.once.Do(func() {
				p.err = err
				close(p.stop)
			})
			return
		}
		if len(a.encoded) < len(dst) {
			select {
			case p.free <- a.encoded:
			default:
			}
		}
	}
}

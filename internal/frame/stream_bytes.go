package frame

import (
	"context"
	"io"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/modcache/modcache/internal/parallel"
)

// Bytes returns the whole artifact, of which nothing may have been read before.
// Chunks are verified and decoded by other goroutines while the next ones
// arrive. Lengths were authenticated along with the header, so that what is
// allocated is what a trusted writer announced.
func (s *Stream) Bytes() ([]byte, error) {
	dst := make([]byte, s.h.size)
	workers := min(runtime.GOMAXPROCS(0), parallel.MaxWorkers)
	decoding, failed := errgroup.WithContext(context.Background())
	decoding.SetLimit(workers)
	buffers := make(chan []byte, workers+1) // for each worker, and for what arrives
	for range cap(buffers) {
		buffers <- nil
	}
	receive := func(i int) error {
		chunk := dst[int64(i)<<s.h.chunkLog:][:s.h.rawLen(i)]
		_, n := s.h.span(i)
		if n == len(chunk) {
			if err := s.receive(chunk, i); err != nil {
				return err
			}
			decoding.Go(func() error { return s.h.check(i, chunk) })
			return nil
		}
		b := slices.Grow((<-buffers)[:0], n)[:n]
		if err := s.receive(b, i); err != nil {
			return err
		}
		decoding.Go(func() error {
			defer func() { buffers <- b }()
			return s.h.decode(s.zstd, i, chunk, b)
		})
		return nil
	}
	var err error
	for i := 0; i < s.h.chunks() && err == nil && failed.Err() == nil; i++ {
		err = receive(i)
	}
	if err == nil && failed.Err() == nil {
		err = s.end()
	}
	if e := decoding.Wait(); e != nil {
		return nil, e
	}
	if err != io.EOF {
		return nil, err
	}
	return dst, nil
}

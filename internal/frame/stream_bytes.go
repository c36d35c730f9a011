package frame

import (
	"bytes"
	"context"
	"io"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/modcache/modcache/internal/parallel"
)

const (
	early  = 16
	atOnce = 1 << 20 // bytes for an artifact that is no longer
)

// Bytes returns the whole artifact, of which nothing may have been read before.
// Chunks are verified and decoded by other goroutines while the next ones
// arrive. Lengths were authenticated along with the header, but nothing says that the rest will
// come: until one part in [early] has, no more is allocated than twice that; then what a trusted writer
// announced.
func (s *Stream) Bytes() ([]byte, error) {
	if s.h.size > atOnce {
		var begun bytes.Buffer
		if err := fill(&begun, s.src, "artifact", s.h.encoded/early); err != nil {
			return nil, err
		}
		s.src = io.MultiReader(&begun, s.src)
	}
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

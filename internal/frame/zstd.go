package frame

import (
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/modcache/modcache/internal/parallel"
)

// maxRatio bounds how much longer than its encoding a chunk may be, so that a
// small file can't claim a huge artifact. What compresses better is kept raw.
const maxRatio = 512

// Compressor encodes and decodes zstd chunks, from several goroutines at once.
// It holds its tables from the first use on.
type Compressor struct {
	encoder func() (*zstd.Encoder, error)
	decoder func() (*zstd.Decoder, error)
}

// NewCompressor returns a Compressor. One is enough for a program.
func NewCompressor() *Compressor {
	return &Compressor{
		encoder: sync.OnceValues(func() (*zstd.Encoder, error) {
			// The frame has its own digests, and knows each chunk's length.
			return zstd.NewWriter(nil, zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true),
				zstd.WithEncoderConcurrency(parallel.MaxWorkers), zstd.WithWindowSize(1<<20))
		}),
		decoder: sync.OnceValues(func() (*zstd.Decoder, error) {
			return zstd.NewReader(nil, zstd.WithDecoderConcurrency(parallel.MaxWorkers), zstd.WithDecodeAllCapLimit(true),
				zstd.WithDecoderMaxMemory(1<<(maxChunkLog+1)), zstd.WithDecoderMaxWindow(1<<maxChunkLog))
		}),
	}
}

// encode returns chunk compressed, or chunk itself if that isn't worth it.
func (c *Compressor) encode(chunk []byte) ([]byte, error) {
	e, err := c.encoder()
	if err != nil {
		return nil, err
	}
	b := e.EncodeAll(chunk, make([]byte, 0, len(chunk)/2))
	if len(b) >= len(chunk) || len(b)*maxRatio < len(chunk) {
		return chunk, nil
	}
	return b, nil
}

// decode fills dst, whose length is that of the chunk, from verified bytes.
func (c *Compressor) decode(dst, encoded []byte) error {
	d, err := c.decoder()
	if err != nil {
		return err
	}
	got, err := d.DecodeAll(encoded, dst[:0:len(dst)])
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if len(got) != len(dst) {
		return fmt.Errorf("%w: chunk of %d bytes, want %d", ErrCorrupt, len(got), len(dst))
	}
	return nil
}

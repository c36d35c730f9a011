package mapped

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
)

// Image is the immutable content that memories begin with. It is safe for concurrent use.
type Image struct {
	file  *os.File // that no name leads to; nil where there can't be one
	bytes []byte   // if file is nil
	size  uint64   // whole pages

	spares *spares // areas that memories have left; nil if nothing can be mapped
}

// pageSize is the unit of an image: a page of WebAssembly, which is a multiple of the system's.
const pageSize = 64 << 10

// block is what is left out if it is zero.
const block = 4 << 10

// NewImage returns an image of content, whose last zeros take no part in it.
func NewImage(content []byte) (*Image, error) {
	file, err := anonymousFile()
	if errors.Is(err, ErrUnsupported) {
		n := 0
		for run := range runs(content) {
			n = run.to
		}
		return &Image{bytes: bytes.Clone(content[:n]), size: wholePages(n)}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("make a file for a memory image: %w", err)
	}
	i := &Image{file: file, spares: &spares{}}
	if err := i.write(content); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("write a memory image: %w", err)
	}
	runtime.AddCleanup(i, (*spares).close, i.spares)
	return i, nil
}

// Size returns the bytes of the image.
func (i *Image) Size() uint64 { return i.size }

func (i *Image) write(content []byte) error {
	end := int64(0)
	for b := range runs(content) {
		end = int64(b.to)
		if _, err := i.file.WriteAt(content[b.from:b.to], int64(b.from)); err != nil {
			return err
		}
	}
	i.size = wholePages(int(end))
	if err := i.file.Truncate(int64(i.size)); err != nil {
		return err
	}
	seal(i.file)
	return nil
}

func wholePages(n int) uint64 { return (uint64(n) + pageSize - 1) / pageSize * pageSize }

// CopyTo writes the image to a memory that holds zeros.
func (i *Image) CopyTo(memory []byte) error {
	if i.file == nil {
		copy(memory, i.bytes)
		return nil
	}
	_, err := i.file.ReadAt(memory[:min(uint64(len(memory)), i.size)], 0)
	return err
}

// run is a part of a content that isn't zero.
type run struct{ from, to int }

// runs cuts the blocks of zeros out of content.
func runs(content []byte) func(yield func(run) bool) {
	return func(yield func(run) bool) {
		from := 0
		for at := 0; at < len(content); at += block {
			end := min(at+block, len(content))
			if !zero(content[at:end]) {
				continue
			}
			if from < at && !yield(run{from, at}) {
				return
			}
			from = end
		}
		if from < len(content) {
			yield(run{from, len(content)})
		}
	}
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// Close ends the image. Memories that were made of it keep what they have.
func (i *Image) Close() error {
	if i.file == nil {
		return nil
	}
	i.spares.close()
	return i.file.Close()
}

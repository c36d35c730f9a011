package mapped

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
)

// Image is the immutable content that memories begin with. It is safe for concurrent use.
type Image struct {
	file  *os.File // that no name leads to; nil if memories are copies
	runs  []run
	bytes []byte // of the runs, if file is nil
	size  uint64 // whole pages

	spares  *spares     // areas that memories have left; nil if memories are copies
	refused atomic.Bool // to map it has failed, so that memories are copies from then on
}

// pageSize is the unit of an image: a page of WebAssembly, which is a multiple of the system's.
const pageSize = 64 << 10

// block is what is left out if it is zero.
const block = 4 << 10

// NewImage returns an image of content, whose last zeros take no part in it. An error comes with an image as
// well: it says why there is no file, so that memories begin as copies and share nothing.
func NewImage(content []byte) (*Image, error) { return newImage(content, anonymousFile, holes) }

// newImage makes the file by open. Where it can't have holes, every byte of it is written: where a hole is read for the
// first time, a file system that is full ends the process.
func newImage(content []byte, open func() (*os.File, error), holes func() bool) (*Image, error) {
	i := &Image{runs: slices.Collect(runs(content))}
	used := 0
	for _, r := range i.runs {
		used += r.to - r.from
		i.size = wholePages(r.to)
	}
	if i.size == 0 {
		i.spare()
		return i, nil
	}
	file, err := openFile(open)
	if err == nil {
		if h := holes(); h || uint64(used) >= i.size/2 {
			err = i.write(file, content, h)
		} else { // a copy costs less than the file
			closeFile(file)
		}
	}
	if i.file != nil {
		return i, nil
	}
	i.bytes = make([]byte, 0, used)
	for _, r := range i.runs {
		i.bytes = append(i.bytes, content[r.from:r.to]...)
	}
	if errors.Is(err, ErrUnsupported) {
		err = nil // nothing could be mapped
	}
	return i, err
}

func openFile(open func() (*os.File, error)) (*os.File, error) {
	err := openFiles.take(1)
	if err == nil {
		var file *os.File
		if file, err = open(); err == nil {
			return file, nil
		}
		openFiles.give(1)
	}
	return nil, fmt.Errorf("make a file for a memory image: %w", err)
}

func closeFile(f *os.File) {
	if f.Close() == nil { // or else it was closed before
		openFiles.give(1)
	}
}

// Size returns the bytes of the image.
func (i *Image) Size() uint64 { return i.size }

// write fills the file, which it takes over.
func (i *Image) write(file *os.File, content []byte, holes bool) error {
	parts := i.runs
	if !holes {
		whole := make([]byte, i.size)
		copy(whole, content)
		content, parts = whole, []run{{0, len(whole)}}
	}
	err := file.Truncate(int64(i.size))
	for _, r := range parts {
		if err == nil {
			_, err = file.WriteAt(content[r.from:r.to], int64(r.from))
		}
	}
	if err != nil {
		closeFile(file)
		return fmt.Errorf("write a memory image: %w", err)
	}
	seal(file)
	i.file = file
	runtime.AddCleanup(i, closeFile, file)
	i.spare()
	return nil
}

// spare has memories leave their areas, which are easily made what they were.
func (i *Image) spare() {
	i.spares = &spares{}
	runtime.AddCleanup(i, (*spares).close, i.spares)
}

// shared reports whether memories share the pages of the image.
func (i *Image) shared() bool { return i != nil && i.spares != nil && !i.refused.Load() }

func wholePages(n int) uint64 { return (uint64(n) + pageSize - 1) / pageSize * pageSize }

// CopyTo writes the image to a memory that holds zeros.
func (i *Image) CopyTo(memory []byte) error {
	if uint64(len(memory)) < i.size {
		return fmt.Errorf("a memory of %d bytes can't hold an image of %d", len(memory), i.size)
	}
	from := i.bytes
	for _, r := range i.runs {
		if i.file == nil {
			from = from[copy(memory[r.from:r.to], from):]
		} else if _, err := i.file.ReadAt(memory[r.from:r.to], int64(r.from)); err != nil {
			return err
		}
	}
	return nil
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

var zeros [block]byte

func zero(b []byte) bool { return bytes.Equal(b, zeros[:len(b)]) }

// Close ends the image. Memories that were made of it keep what they have.
func (i *Image) Close() {
	if i.spares != nil {
		i.spares.close()
	}
	if i.file != nil {
		closeFile(i.file)
	}
}

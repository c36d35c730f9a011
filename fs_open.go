package modcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path"
	"slices"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/internal/frame"
	"github.com/modcache/modcache/internal/layout"
)

// OpenFS opens the entries of a cache directory in fsys, whose root is that directory: an
// [embed.FS] below [fs.Sub], an [os.DirFS], a zip file. If there is no such directory, the error
// wraps [fs.ErrNotExist].
//
// Files that are an [io.ReaderAt], as those of embed and os are, are read where they lie. Of
// others, such as compressed ones, what is read is kept in memory until the artifact is closed.
//
// Nobody checks who else could write to the files. For a directory, that is what [OpenDisk] is
// for.
//
// A program that brings its machine code along: examples/embedded, with [OpenBundle].
func OpenFS(fsys fs.FS, o *FSOptions) (*FSStore, error) {
	v, err := o.validate("fs")
	if err != nil {
		return nil, err
	}
	if fsys == nil {
		return nil, errors.New("modcache: OpenFS needs a file system")
	}
	files := filesOf{fsys, bounded.Limit{Wait: storeWait, Slots: semaphore.NewWeighted(16)}}
	s := newFSStore(v, files)
	found, err := contain.Value(files.isCacheDir)
	if err == nil && !found {
		err = fmt.Errorf("its root is no cache directory: it has no %s; fs.Sub gives the directory below it: %w", layout.Tag, fs.ErrNotExist)
	}
	if err != nil {
		return nil, s.errorOf("open", Key{}, err)
	}
	return s, nil
}

func (d filesOf) isCacheDir() (bool, error) {
	if f, err := d.openFile(layout.Tag); err == nil {
		contain.Close(f)
		return true, nil
	}
	files, err := fs.ReadDir(d.fsys, ".")
	if slices.ContainsFunc(files, func(f fs.DirEntry) bool { return layout.ShowsCache(f) }) {
		return true, nil
	}
	return false, err
}

// filesOf has the entries of a cache directory, each in a file of its own.
type filesOf struct {
	fsys    fs.FS
	outside bounded.Limit // for opening what a link leads to that can't be looked at before
}

func (d filesOf) open(key Key) (fsFile, error) {
	return contain.Value(func() (file fsFile, err error) {
		name := layout.Entry(key)
		f, err := d.openFile(name)
		if err != nil {
			return file, err
		}
		fi, err := f.Stat()
		if err == nil && !fi.Mode().IsRegular() {
			err = errNotRegular
		}
		if err != nil {
			contain.Close(f)
			return file, err
		}
		src, ok := f.(io.ReaderAt)
		if !ok {
			if fi.Size() > maxKept {
				contain.Close(f)
				return file, fmt.Errorf("%w: %d bytes, and at most %d are kept of a file that can only be read in order", ErrTooLarge, fi.Size(), maxKept)
			}
			src = &kept{src: &moving{src: f}}
		}
		return fsFile{contain.ReaderAt{Src: src}, fi.Size(), f}, nil
	})
}

var errNotRegular = fmt.Errorf("%w: not a regular file", frame.ErrCorrupt)

// openFile opens what is a regular file, as far as that can be told before: to open a FIFO may take for ever.
func (d filesOf) openFile(name string) (fs.File, error) {
	fi, err := look(d.fsys, name)
	switch {
	case errors.Is(err, errOutside):
		return bounded.Call(context.Background(), d.outside, func(context.Context) (fs.File, error) { return d.fsys.Open(name) }, closeLate)
	case err != nil:
		return nil, err
	case fi != nil && !fi.Mode().IsRegular():
		return nil, errNotRegular
	}
	return d.fsys.Open(name)
}

func closeLate(f fs.File) {
	if f != nil {
		contain.Close(f)
	}
}

// errOutside is about a link that leads out of the file system, to what can't be seen from there.
var errOutside = errors.New("a symbolic link that can't be followed")

// look returns what is behind a name. File systems for which it returns nil can't tell, and have no FIFOs.
func look(fsys fs.FS, name string) (fs.FileInfo, error) {
	switch fsys := fsys.(type) {
	case fs.StatFS:
		return fsys.Stat(name)
	case fs.ReadLinkFS: // as fs.Sub returns
		return follow(fsys, name)
	}
	return nil, nil
}

// follow is look where only links can be read.
func follow(fsys fs.ReadLinkFS, name string) (fs.FileInfo, error) {
	const most = 40 // as in the kernel
	for links := 0; links <= most; links++ {
		fi, err := fsys.Lstat(name)
		if links > 0 && err != nil { // a directory on the way may be a link, too
			return nil, errOutside
		}
		if err != nil || fi.Mode()&fs.ModeSymlink == 0 {
			return fi, err
		}
		to, err := fsys.ReadLink(name)
		if err != nil {
			return nil, err
		}
		if name = path.Join(path.Dir(name), to); path.IsAbs(to) || !fs.ValidPath(name) {
			return nil, errOutside
		}
	}
	return nil, errOutside
}

func (d filesOf) keys(context.Context) iter.Seq2[Key, error] {
	return func(yield func(Key, error) bool) {
		for _, shard := range layout.Shards {
			files, err := contain.Value(func() ([]fs.DirEntry, error) { return fs.ReadDir(d.fsys, string(shard)) })
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				yield(Key{}, err)
				return
			}
			for _, f := range files {
				key, version, ok := layout.ParseEntry(f.Name())
				if ok && version == layout.Version && layout.Shard(key) == string(shard) && !yield(key, nil) {
					return
				}
			}
		}
	}
}

func (filesOf) totals() (int, int64) { return 0, 0 }

// maxKept bounds what a small file that decompresses to a huge one can take.
const maxKept = 1 << 30

// kept reads at any place what can be read in order only: it keeps what it has read.
type kept struct {
	mu  sync.Mutex // guards all below; held while src is read, which is what others wait for
	src io.Reader
	buf bytes.Buffer
}

// ReadAt implements [io.ReaderAt].
func (k *kept) ReadAt(p []byte, off int64) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var err error
	if missing := off + int64(len(p)) - int64(k.buf.Len()); missing > 0 {
		_, err = io.CopyN(&k.buf, k.src, missing)
	}
	n := 0
	if off < int64(k.buf.Len()) {
		n = copy(p, k.buf.Bytes()[off:])
	}
	if n < len(p) && err == nil {
		err = io.EOF
	}
	if n == len(p) {
		err = nil
	}
	return n, err
}

// moving fails where its source goes on returning nothing, which io.Copy would wait for.
type moving struct {
	src  io.Reader
	idle int // reads in a row that returned nothing
}

// Read implements [io.Reader].
func (m *moving) Read(p []byte) (int, error) {
	n, err := m.src.Read(p)
	if n != 0 || err != nil || len(p) == 0 {
		m.idle = 0
		return n, err
	}
	if m.idle++; m.idle < 100 {
		return 0, nil
	}
	return 0, io.ErrNoProgress
}

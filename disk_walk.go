package modcache

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"time"

	"github.com/modcache/modcache/internal/books"
	"github.com/modcache/modcache/internal/dirfs"
	"github.com/modcache/modcache/internal/frame"
	"github.com/modcache/modcache/internal/layout"
)

// DiskEntry is what a [Disk] knows of an entry without reading its code.
type DiskEntry struct {
	Key    Key       `json:"key"`
	Size   int64     `json:"size"`   // of the artifact; 0 if Err
	Stored int64     `json:"stored"` // bytes on disk: whole blocks, as du counts
	Used   time.Time `json:"used"`   // when it was last used, to the minute; zero if its file has no time that can be
	Info   Info      `json:"info"`   // zero if Err

	// Err wraps ErrOtherKey for an entry that is sealed under another key, or in another
	// way; ErrCorrupt or ErrAuth for one that is damaged. Any other error says why the
	// entry can't be read, which says nothing about it.
	Err error `json:"-"`
}

// Stat describes the entry under key, whose header it verifies. It is not a use
// of the entry. A damaged one is reported in DiskEntry.Err and stays where it
// is.
func (d *Disk) Stat(ctx context.Context, key Key) (e DiskEntry, ok bool, err error) {
	if err := d.ready(ctx); err != nil {
		return DiskEntry{}, false, d.errorOf("stat", key, err)
	}
	e, ok = d.inspect("stat", key, nil)
	return e, ok, nil
}

// Walk describes all entries, in no order. It is no use of them, and leaves damaged
// ones where they are. What comes and goes meanwhile may be missed. An error comes last:
// the context has ended, or directories that it names couldn't be listed.
func (d *Disk) Walk(ctx context.Context) iter.Seq2[DiskEntry, error] {
	return d.each(ctx, "walk", nil)
}

// VerifyReport is the outcome of [Disk.Verify].
type VerifyReport struct {
	Entries  int         `json:"entries"` // that are what was added
	Bytes    int64       `json:"bytes"`   // of them on disk
	Corrupt  []DiskEntry `json:"corrupt,omitempty"`
	OtherKey []DiskEntry `json:"other_key,omitempty"` // can't be judged without the key that they are sealed under
	Failed   []DiskEntry `json:"failed,omitempty"`    // could not be read, for reasons that say nothing about them
}

// Verify reads every byte of every entry and moves damaged ones to the
// quarantine, unless the Disk is ReadOnly. Only an ended context or a directory that
// can't be listed is an error; the report then tells of the others.
func (d *Disk) Verify(ctx context.Context) (VerifyReport, error) {
	var r VerifyReport
	buf := make([]byte, 1<<20)
	for e, err := range d.each(ctx, "verify", buf) {
		switch {
		case err != nil:
			return r, err
		case e.Err == nil:
			r.Entries++
			r.Bytes += e.Stored
		case errors.Is(e.Err, ErrOtherKey):
			r.OtherKey = append(r.OtherKey, e)
		case isDamage(e.Err):
			r.Corrupt = append(r.Corrupt, e)
		default:
			r.Failed = append(r.Failed, e)
		}
	}
	return r, nil
}

// each inspects all entries of the current format. The error comes last.
func (d *Disk) each(ctx context.Context, op string, buf []byte) iter.Seq2[DiskEntry, error] {
	return func(yield func(DiskEntry, error) bool) {
		found, _, err := d.list(ctx, true)
		for _, s := range found {
			if s.Old {
				continue
			}
			if e := d.ready(ctx); e != nil {
				err = e
				break
			}
			if e, ok := d.inspect(op, s.Key, buf); ok && !yield(e, nil) {
				return
			}
		}
		if err != nil {
			yield(DiskEntry{}, d.errorOf(op, Key{}, err))
		}
	}
}

// list returns what is in the shards. What it doesn't recognise isn't there, nor, unless
// all is set, what has the name of an entry but is no file. The shards that can't be listed
// are in unlisted; if there are any, or the operation can't start, it returns an error too.
func (d *Disk) list(ctx context.Context, all bool) (found []books.Entry, unlisted string, err error) {
	for _, digit := range layout.Shards {
		if err := d.ready(ctx); err != nil {
			return nil, layout.Shards, err
		}
		if d.tree() == nil {
			return nil, "", nil
		}
		shard := string(digit)
		infos, e := d.tree().ReadDir(shard)
		if errors.Is(e, fs.ErrNotExist) {
			continue
		}
		if e != nil {
			unlisted += shard
			err = errors.Join(err, e)
			continue
		}
		for _, fi := range infos {
			if e, ok := entryOf(shard, fi); ok && (all || fi.Mode().IsRegular()) {
				found = append(found, e)
			}
		}
	}
	d.lookAside(found)
	return found, unlisted, err
}

// entryOf returns what a file in a shard shows of an entry, if it has the name of one.
func entryOf(shard string, fi fs.FileInfo) (books.Entry, bool) {
	key, version, ok := layout.ParseEntry(fi.Name())
	return books.Entry{
		Name: shard + "/" + fi.Name(), Key: key, Size: dirfs.Taken(fi), Length: fi.Size(),
		Used: fi.ModTime(), Old: version != layout.Version,
	}, ok && layout.Shard(key) == shard
}

// inspect describes an entry, if there is one. With a buffer, it reads all of it, and
// treats damage as Get does.
func (d *Disk) inspect(op string, key Key, buf []byte) (e DiskEntry, ok bool) {
	opened, err := d.openRaw(key)
	if errors.Is(err, fs.ErrNotExist) {
		return DiskEntry{}, false
	}
	e = DiskEntry{Key: key}
	var fi fs.FileInfo
	if opened != nil {
		defer opened.Close()
		fi = opened.fi
	}
	if fi != nil {
		e.Stored, e.Used = dirfs.Taken(fi), frame.KnownTime(d.usedAt(key, fi))
	}
	if err == nil {
		e.Size, e.Info = opened.r.Size(), frame.InfoOf[Info](opened.r.Meta())
		if buf != nil {
			_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.NewSectionReader(opened.r, 0, e.Size), buf)
		}
	}
	switch {
	case err == nil:
		return e, true
	case buf != nil:
		e.Err = d.readFailed(op, key, fi, err)
	default:
		e.Err = d.errorOf(op, key, err)
	}
	e.Size, e.Info = 0, Info{}
	return e, true
}

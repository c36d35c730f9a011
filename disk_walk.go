package modcache

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"time"
)

// DiskEntry is what a [Disk] knows of an entry without reading its code.
type DiskEntry struct {
	Key    Key
	Size   int64     // of the artifact; 0 if Err
	Stored int64     // bytes on disk
	Used   time.Time // when it was last used, to the minute
	Info   Info      // zero if Err
	Err    error     // wraps ErrCorrupt or ErrAuth, or says why the entry can't be read
}

// Stat describes the entry under key, whose header it verifies. It is not a use
// of the entry. A damaged one is reported in DiskEntry.Err and stays where it
// is.
func (d *Disk) Stat(ctx context.Context, key Key) (e DiskEntry, ok bool, err error) {
	if err := d.ready(ctx); err != nil {
		return DiskEntry{}, false, err
	}
	e, err = d.inspect(key, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return DiskEntry{}, false, nil
	}
	return e, err == nil, err
}

// Walk describes all entries, in no order. It is no use of them, and leaves damaged
// ones where they are. What comes and goes meanwhile may be missed. An
// error ends it.
func (d *Disk) Walk(ctx context.Context) iter.Seq2[DiskEntry, error] {
	return d.each(ctx, nil)
}

// VerifyReport is the outcome of [Disk.Verify].
type VerifyReport struct {
	Entries int   // that are sound
	Bytes   int64 // of them on disk
	Corrupt []DiskEntry
	Failed  []DiskEntry // could not be read: neither sound nor damaged, as far as we know
}

// Verify reads every byte of every entry and moves damaged ones to the
// quarantine, unless the Disk is ReadOnly. Only an ended context or a directory that
// can't be listed is an error.
func (d *Disk) Verify(ctx context.Context) (VerifyReport, error) {
	var r VerifyReport
	buf := make([]byte, 1<<20)
	for e, err := range d.each(ctx, buf) {
		switch {
		case err != nil:
			return r, err
		case e.Err == nil:
			r.Entries++
			r.Bytes += e.Stored
		case errors.Is(e.Err, ErrCorrupt) || errors.Is(e.Err, ErrAuth):
			r.Corrupt = append(r.Corrupt, e)
		default:
			r.Failed = append(r.Failed, e)
		}
	}
	return r, nil
}

// each inspects all entries of the current format.
func (d *Disk) each(ctx context.Context, buf []byte) iter.Seq2[DiskEntry, error] {
	return func(yield func(DiskEntry, error) bool) {
		err := d.ready(ctx)
		var found []stored
		if err == nil && d.fs != nil {
			found, err = d.scan(ctx)
		}
		for _, s := range found {
			if s.old {
				continue
			}
			if err = d.ready(ctx); err != nil {
				break
			}
			e, err := d.inspect(s.key, buf)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
		if err != nil {
			yield(DiskEntry{}, err)
		}
	}
}

// inspect describes an entry. With a buffer, it reads all of it, and treats
// damage as Get does.
func (d *Disk) inspect(key Key, buf []byte) (DiskEntry, error) {
	e, err := d.openRaw(key)
	if errors.Is(err, fs.ErrNotExist) {
		return DiskEntry{}, err
	}
	de := DiskEntry{Key: key}
	var fi fs.FileInfo
	if e != nil {
		defer e.Close()
		fi = e.fi
	}
	if fi != nil {
		de.Stored, de.Used = fi.Size(), fi.ModTime()
	}
	if err == nil {
		de.Size, de.Info = e.r.Size(), infoOf(e.r.Meta())
		if buf != nil {
			_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.NewSectionReader(e.r, 0, de.Size), buf)
		}
	}
	switch {
	case err == nil:
	case buf != nil:
		de.Err = d.readFailed(key, fi, err)
	default:
		de.Err = d.describe(key, err)
	}
	if de.Err != nil {
		de.Size, de.Info = 0, Info{}
	}
	return de, nil
}

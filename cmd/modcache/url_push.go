package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bytesize"
	"github.com/modcache/modcache/remote"
)

// uploads bounds how many bytes of artifacts wait in memory for their upload.
const uploads = 64 << 20

// upload brings the entries to a server. The first one goes alone: a server that takes it will
// take others.
func (p *pusher) upload(ctx context.Context, s *streams, to *place, o *remote.Options) error {
	var mu sync.Mutex
	failed := make(map[modcache.Key]error) // guarded by mu
	o.OnEvent = func(e modcache.Event) {
		if e.Kind == modcache.EventStoreFailed {
			mu.Lock()
			defer mu.Unlock()
			failed[e.Key] = e.Err
		}
	}
	store, err := to.open(o)
	if err != nil {
		return err
	}
	defer store.Close()
	if err := to.check(ctx, store, true); err != nil {
		return err
	}
	leave := func(key modcache.Key, err error) {
		p.done.LeftOut++
		fmt.Fprintf(s.err, "%s  %s\n", key, troubleText(err))
	}
	// finish waits for what was queued. What is wrong with one entry doesn't end it all.
	finish := func() (err error) {
		if flushed := store.Flush(ctx); ctx.Err() != nil {
			return ctx.Err()
		} else if flushed == nil {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		for key, why := range failed {
			if errors.Is(why, modcache.ErrTooLarge) {
				leave(key, why)
			} else {
				err = why
			}
		}
		clear(failed)
		return err
	}
	queued := int64(0)
	for i, e := range p.entries {
		a, err := p.get(ctx, e)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			queued += a.Size()
			err = store.Add(ctx, e.key, a)
			a.Close()
		}
		if err != nil {
			leave(e.key, err)
			continue
		}
		if i == 0 || queued >= uploads {
			queued = 0
			if err := finish(); err != nil {
				return fmt.Errorf("%w; what was uploaded until then is complete", to.explain(err))
			}
		}
	}
	if err := finish(); err != nil {
		return fmt.Errorf("%w; what was uploaded until then is complete", to.explain(err))
	}
	r := store.Report()
	p.done.Entries, p.done.Bytes, p.done.Present = int(r.Uploads), int64(r.Uploaded), r.Present
	if p.asJSON {
		_ = s.json(p.done)
	} else {
		fmt.Fprintf(s.out, "%d uploaded, %s, %d present\n", r.Uploads, bytesize.Format(int64(r.Uploaded)), r.Present)
	}
	return p.done.found()
}

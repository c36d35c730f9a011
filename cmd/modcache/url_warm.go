package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/remote"
)

// uploader makes the stores of a warmer that fills a server.
type uploader struct {
	at     *place
	o      *remote.Options
	giveUp context.CancelCauseFunc // of a server that takes nothing
}

// toServer is run for -to.
func (w *warmer) toServer(ctx context.Context, s *streams, operands []string) error {
	switch {
	case w.to == "":
		return usagef("-sign and -bundle-key-file are for a server: name it with -to")
	case !urlStart.MatchString(w.to):
		return usagef("-to isn't a URL, which begins with https:// or another scheme")
	case w.require:
		return usagef("-require and -to exclude each other: modcache doctor, with the URL and the modules, says what a server lacks")
	case w.dir != dirFlags{} || w.compress || w.maxBytes > 0 || w.mode.mode != 0:
		return usagef("-to stores on a server and in no directory: it excludes -dir, -key-file, -group, -compress, -max-bytes and -mode")
	}
	at, o, err := w.trust.placeAt(w.to, "-sign")
	if err != nil {
		return err
	}
	files, err := w.prepare(ctx, operands)
	if err != nil {
		return err
	}
	store, err := at.open(o)
	if err != nil {
		return err
	}
	err = errors.Join(at.check(ctx, store, false), store.Close())
	if err != nil {
		return err
	}
	going, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	w.server = &uploader{at, o, giveUp}
	done := w.all(going, s, files)
	if err := context.Cause(going); err != nil {
		return err
	}
	return w.outcome(s, done)
}

// store returns where the code of one module is to be, and a function that ends its use.
func (w *warmer) store() (modcache.Store, func(context.Context) error, error) {
	if w.server == nil {
		return w.disk, func(context.Context) error { return nil }, nil
	}
	return w.server.store()
}

// store has a module's code in memory until it is on the server: uploads take place in the
// background. Each module has a store of its own, whose failures are its own.
func (u *uploader) store() (modcache.Store, func(context.Context) error, error) {
	server, err := u.at.open(u.o)
	if err != nil {
		return nil, nil, err
	}
	const enough = 1 << 40
	memory := modcache.NewMemory(&modcache.MemoryOptions{MaxBytes: enough})
	l := modcache.NewLayered(&modcache.LayeredOptions{BreakAfter: -1, QueueBytes: -1},
		modcache.Layer{Store: memory}, modcache.Layer{Store: server, Timeout: -1})
	return l, func(ctx context.Context) error {
		err := server.Flush(ctx)
		if err != nil && ctx.Err() == nil {
			err = u.at.explain(err)
			if !errors.Is(err, modcache.ErrTooLarge) {
				u.giveUp(fmt.Errorf("%w; what was uploaded until then is complete", err))
			}
		}
		return errors.Join(err, l.Close(), server.Close())
	}, nil
}

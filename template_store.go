package modcache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/modcache/modcache/internal/wasmbin"
)

// snapshot returns the state that Init leaves: from the store, if Init has an ID, or by
// running it. One caller at a time runs it, and the next finds what he left in the store.
func (t *Template) snapshot(ctx context.Context, m *Module, s *wasmbin.State, o *TemplateOptions) (*wasmbin.Snapshot, error) {
	c := t.r.c
	if o.ID == "" || t.r.e == nil {
		snap, _, err := t.capture(ctx, m, s, o)
		return snap, err
	}
	key := snapshotKey(t.key, o.ID)
	if snap := t.findSnapshot(ctx, key, m, s); snap != nil {
		return snap, nil
	}
	leave, err := c.snapshotTurn(ctx, key)
	if err != nil {
		return nil, err
	}
	if leave != nil { // else somebody holds the store's lock too
		defer leave()
		unlock, _ := c.lock(ctx, key, m.Name())
		defer unlock()
	}
	if snap := t.findSnapshot(ctx, key, m, s); snap != nil {
		return snap, nil
	}
	ctx = context.WithValue(ctx, initKey{}, &initOf{c, key, initIn(ctx)})
	snap, took, err := t.capture(ctx, m, s, o)
	if err != nil {
		return nil, err
	}
	c.put(key, snap.Marshal(), Info{Module: m.sum, Name: m.Name(), WasmSize: int64(len(m.wasm)), CompileTime: took})
	return snap, nil
}

// snapshotTurn waits until nobody else in this process makes the snapshot under key. leave is nil if that took longer
// than LockWait: the Init of another may hang, or may itself wait for what this caller makes.
func (c *Cache) snapshotTurn(ctx context.Context, key Key) (leave func(), err error) {
	for in := initIn(ctx); in != nil; in = in.outer {
		if in.c == c && in.key == key {
			return nil, errors.New("its Init makes the same template again: one of the same module and ID")
		}
	}
	wait := c.opts.LockWait
	if wait < 0 { // which is about other processes
		wait = defaultLockWait
	}
	over := time.NewTimer(wait)
	defer over.Stop()
	turn := make(chan struct{})
	for {
		other, taken := c.snapshotting.LoadOrStore(key, turn)
		if !taken {
			return func() {
				c.snapshotting.Delete(key)
				close(turn)
			}, nil
		}
		select {
		case <-other.(chan struct{}):
		case <-over.C:
			return nil, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// initOf is what the context of an Init says: the snapshot that it makes, and that of the Init around it, if any.
type initOf struct {
	c     *Cache
	key   Key
	outer *initOf
}

type initKey struct{}

func initIn(ctx context.Context) *initOf {
	in, _ := ctx.Value(initKey{}).(*initOf)
	return in
}

// snapshotKey names the snapshot that the Init called id leaves of the module whose code
// is under key.
func snapshotKey(key Key, id string) Key {
	return hashed([]byte("modcache snapshot 1\x00"), key[:], []byte(id))
}

// findSnapshot returns the snapshot under key, or nil if there is none that is sound.
func (t *Template) findSnapshot(ctx context.Context, key Key, m *Module, s *wasmbin.State) *wasmbin.Snapshot {
	c := t.r.c
	look := &lookup{c: c, name: m.Name(), most: believedCode + int64(s.Memory.Max), spare: true}
	for again := true; again; {
		a := look.get(ctx, key)
		if a == nil {
			break
		}
		snap, err := readStored(ctx, c, a, s)
		c.release(a)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			c.counters.snapshotsFound.Add(1)
			c.emit(Event{Kind: EventSnapshotFound, Key: t.key, Name: m.Name(), Bytes: int64(len(snap.Memory))})
			return snap
		}
		again = look.reject(key, err)
	}
	return nil
}

// readStored reads a snapshot of the module with that state.
func readStored(ctx context.Context, c *Cache, a *Artifact, s *wasmbin.State) (*wasmbin.Snapshot, error) {
	b, err := read(ctx, c, a, (*Artifact).Bytes, nil)
	if err != nil {
		return nil, err
	}
	if len(b) < sealSize {
		return nil, fmt.Errorf("%w: a snapshot of %d bytes", ErrCorrupt, len(b))
	}
	snap, err := s.Unmarshal(b[:len(b)-sealSize])
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return snap, err
}

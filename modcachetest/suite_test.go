package modcachetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
)

// fullOptions promise all that a mapStore keeps. Wrong stores keep their
// wrongness in the handles that are derived from them.
func fullOptions() *Options {
	derive := func(s modcache.Store, change func(*mapStore)) modcache.Store {
		other := *s.(*mapStore)
		other.closed = false
		change(&other)
		return &other
	}
	return &Options{
		Budget:         16 << 20,
		ExclusiveLocks: true,
		Reopen: func(_ testing.TB, s modcache.Store) modcache.Store {
			return derive(s, func(*mapStore) {})
		},
		Share: func(_ testing.TB, s modcache.Store) modcache.Store {
			return derive(s, func(*mapStore) {})
		},
		ReadOnly: func(_ testing.TB, s modcache.Store) modcache.Store {
			return derive(s, func(s *mapStore) { s.readOnly = true })
		},
		Damage: func(_ testing.TB, s modcache.Store, key modcache.Key) {
			shelf := s.(*mapStore).shelf
			shelf.mu.Lock()
			defer shelf.mu.Unlock()
			shelf.entries[key].b[0] ^= 1
		},
		Observe: func(_ testing.TB, observer func(modcache.Event)) modcache.Store {
			s := newMapStore()
			s.observer = observer
			return s
		},
	}
}

func TestReferenceStorePasses(t *testing.T) {
	open := func(testing.TB) modcache.Store { return newMapStore() }
	t.Run("all", func(t *testing.T) { TestStore(t, open, fullOptions()) })
	t.Run("defaults", func(t *testing.T) { TestStore(t, open, nil) })
	t.Run("single goroutine", func(t *testing.T) { TestStore(t, open, &Options{SingleGoroutine: true}) })
	t.Run("small", func(t *testing.T) { TestStore(t, open, &Options{MaxSize: 10}) })
}

func TestForgetfulStorePassesWhereItMay(t *testing.T) {
	open := func(testing.TB) modcache.Store {
		s := newMapStore()
		s.onAdd = func(context.Context, modcache.Key, *modcache.Artifact) (bool, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if len(s.entries) > 3 {
				clear(s.entries)
			}
			return false, nil
		}
		return s
	}
	TestStore(t, open, &Options{MayEvict: true})
}

// Each wrong store breaks the contract in one way, and the clause named must
// notice. (Others may notice too.)
func TestEveryClauseFindsItsWrongStore(t *testing.T) {
	wrong := map[string]func(*mapStore){
		"absent-key-is-a-miss-without-error": func(s *mapStore) {
			s.onGet = func(_ context.Context, a *modcache.Artifact, ok bool, err error) (*modcache.Artifact, bool, error) {
				if !ok {
					err = errors.New("no such entry")
				}
				return a, ok, err
			}
		},
		"added-entry-is-readable": func(s *mapStore) {
			s.onAdd = func(context.Context, modcache.Key, *modcache.Artifact) (bool, error) { return true, nil }
		},
		"every-size-is-kept-whole": func(s *mapStore) {
			s.onAdd = func(_ context.Context, key modcache.Key, a *modcache.Artifact) (bool, error) {
				b, _ := a.Bytes()
				return true, s.put(key, modcache.NewArtifact(b[:min(len(b), 65536)], a.Info()), false)
			}
		},
		"info-travels-with-the-entry": func(s *mapStore) {
			s.onAdd = func(_ context.Context, key modcache.Key, a *modcache.Artifact) (bool, error) {
				b, _ := a.Bytes()
				info := a.Info()
				info.CompileTime = 0
				return true, s.put(key, modcache.NewArtifact(b, info), false)
			}
		},
		"keys-that-differ-in-one-bit-are-apart": func(s *mapStore) {
			s.key = func(k modcache.Key) modcache.Key { k[31] &^= 1; return k }
		},
		"add-over-an-intact-entry-is-a-no-op": func(s *mapStore) {
			s.onAdd = func(_ context.Context, key modcache.Key, a *modcache.Artifact) (bool, error) {
				return true, s.put(key, a, true)
			}
		},
		"deleted-entry-is-gone": func(s *mapStore) {
			s.onDel = func(modcache.Key) (bool, error) { return true, nil }
		},
		"delete-of-an-absent-key-is-nil": func(s *mapStore) {
			s.onDel = func(key modcache.Key) (bool, error) {
				s.mu.Lock()
				defer s.mu.Unlock()
				if _, ok := s.entries[key]; !ok {
					return true, modcache.ErrMiss
				}
				return false, nil
			}
		},
		"deleted-key-can-be-added-again": func(s *mapStore) {
			tombs := map[modcache.Key]bool{}
			s.onDel = func(key modcache.Key) (bool, error) { tombs[key] = true; return false, nil }
			s.onAdd = func(_ context.Context, key modcache.Key, _ *modcache.Artifact) (bool, error) {
				return tombs[key], nil
			}
		},
		"flush-keeps-entries": func(s *mapStore) {
			s.onFlush = func() error { clear(s.entries); return nil }
		},
		"too-large-artifact-is-refused": func(s *mapStore) { s.budget = 1 << 40 },
		"metrics-count-every-lookup-once": func(s *mapStore) {
			s.onCount = func(m *modcache.Metrics) { m.Lookups *= 2 }
		},
		"metrics-count-accepted-adds": func(s *mapStore) {
			s.onCount = func(m *modcache.Metrics) { m.Adds = 0 }
		},
		"cancelled-context-is-not-a-miss": func(s *mapStore) {
			s.onGet = func(ctx context.Context, a *modcache.Artifact, ok bool, err error) (*modcache.Artifact, bool, error) {
				if ctx.Err() != nil {
					return nil, false, nil
				}
				return a, ok, err
			}
		},
		"add-with-a-cancelled-context-keeps-its-word": func(s *mapStore) {
			s.onAdd = func(ctx context.Context, _ modcache.Key, _ *modcache.Artifact) (bool, error) {
				return ctx.Err() != nil, nil
			}
		},
		"random-history-agrees-with-a-map": func(s *mapStore) {
			n := 0
			s.onDel = func(modcache.Key) (bool, error) { n++; return n%10 == 0, nil }
		},
		"artifact-reads-like-an-io.ReaderAt": func(s *mapStore) {
			s.onGet = func(_ context.Context, a *modcache.Artifact, ok bool, err error) (*modcache.Artifact, bool, error) {
				if ok {
					a = modcache.NewArtifactFrom(firstRead{a}, a.Size(), a.Info())
				}
				return a, ok, err
			}
		},
		"handles-are-closed-one-by-one": func(s *mapStore) {
			var shared *modcache.Artifact
			s.onGet = func(_ context.Context, a *modcache.Artifact, ok bool, err error) (*modcache.Artifact, bool, error) {
				if ok && shared == nil {
					shared = a
				}
				if ok {
					a = shared
				}
				return a, ok, err
			}
		},
		"handle-outlives-the-context-of-its-get": func(s *mapStore) {
			s.onGet = func(ctx context.Context, a *modcache.Artifact, ok bool, err error) (*modcache.Artifact, bool, error) {
				if ok {
					a = modcache.NewArtifactFrom(boundRead{a, ctx}, a.Size(), a.Info())
				}
				return a, ok, err
			}
		},
		"handle-never-reads-what-came-later": func(s *mapStore) {
			s.onGet = func(_ context.Context, a *modcache.Artifact, ok bool, err error) (*modcache.Artifact, bool, error) {
				if ok {
					a = modcache.NewArtifactFrom(latestRead{s.shelf, keyOf(1)}, a.Size(), a.Info())
				}
				return a, ok, err
			}
		},
		"add-leaves-the-handle-to-the-caller": func(s *mapStore) {
			s.onAdd = func(_ context.Context, key modcache.Key, a *modcache.Artifact) (bool, error) {
				defer func() { _ = a.Close() }()
				return true, s.put(key, a, false)
			}
		},
		"add-does-not-modify-the-bytes": func(s *mapStore) {
			s.onAdd = func(_ context.Context, key modcache.Key, a *modcache.Artifact) (bool, error) {
				err := s.put(key, a, false)
				b, _ := a.Bytes()
				b[0]++
				return true, err
			}
		},
		"unreadable-artifact-is-not-stored": func(s *mapStore) {
			s.onAdd = func(_ context.Context, key modcache.Key, a *modcache.Artifact) (bool, error) {
				b := make([]byte, a.Size())
				n, _ := a.ReadAt(b, 0)
				return true, s.put(key, modcache.NewArtifact(b[:n], a.Info()), false)
			}
		},
		"damaged-entry-is-a-miss-and-heals": func(s *mapStore) {
			s.onGet = func(_ context.Context, a *modcache.Artifact, ok bool, err error) (*modcache.Artifact, bool, error) {
				if s.m.Corrupt > 0 {
					return nil, false, modcache.ErrCorrupt
				}
				return a, ok, err
			}
		},
		"closed-store-answers-ErrClosed": func(s *mapStore) {
			s.onClose = func() error { return nil }
		},
		"racing-adds-of-a-key-leave-one-of-them": func(s *mapStore) {
			// Two adds of a key mix: the tail is another version's.
			s.onAdd = func(_ context.Context, key modcache.Key, a *modcache.Artifact) (bool, error) {
				b, _ := a.Bytes()
				s.mu.Lock()
				defer s.mu.Unlock()
				if e, ok := s.entries[key]; ok && len(e.b) == len(b) {
					mixed := append(bytes.Clone(e.b[:len(b)/2]), b[len(b)/2:]...)
					s.entries[key] = entry{mixed, e.info, modcache.Sum(mixed)}
					return true, nil
				}
				s.entries[key] = entry{bytes.Clone(b), a.Info(), modcache.Sum(b)}
				return true, nil
			}
		},
		"goroutines-see-only-what-was-added": func(s *mapStore) {
			var mu sync.Mutex
			last := map[modcache.Key]*modcache.Artifact{}
			s.onAdd = func(_ context.Context, key modcache.Key, a *modcache.Artifact) (bool, error) {
				mu.Lock()
				last[modcache.Key{}] = a
				mu.Unlock()
				return false, nil
			}
			s.onGet = func(_ context.Context, a *modcache.Artifact, ok bool, err error) (*modcache.Artifact, bool, error) {
				mu.Lock()
				defer mu.Unlock()
				if ok {
					a = last[modcache.Key{}]
				}
				return a, ok, err
			}
		},
		"racing-lookups-get-handles-of-their-own": func(s *mapStore) {
			var once sync.Once
			var shared *modcache.Artifact
			s.onGet = func(_ context.Context, a *modcache.Artifact, ok bool, err error) (*modcache.Artifact, bool, error) {
				if ok {
					once.Do(func() { shared = a })
					a = shared
				}
				return a, ok, err
			}
		},
		"flushed-entries-survive-reopening": func(s *mapStore) {
			n := 0
			s.onFlush = func() error { n++; return nil }
			// What Reopen copies has lost its entries.
			s.key = func(k modcache.Key) modcache.Key {
				k[0] ^= byte(n)
				return k
			}
		},
		"handles-share-their-entries":          nil, // see below
		"every-lookup-reports-one-hit-or-miss": nil, // likewise
		"read-only-handle-refuses-changes": func(s *mapStore) {
			s.onAdd = func(_ context.Context, key modcache.Key, a *modcache.Artifact) (bool, error) {
				s := *s
				s.readOnly = false
				return true, s.put(key, a, false)
			}
		},
		"lock-can-be-taken-and-given-back": func(s *mapStore) {
			s.lock = func(context.Context, modcache.Key) (func(), error) {
				n := 0
				return func() {
					if n++; n > 1 {
						panic("unlock of an unlocked lock")
					}
				}, nil
			}
		},
		"held-lock-keeps-others-waiting": func(s *mapStore) {
			s.lock = func(context.Context, modcache.Key) (func(), error) { return func() {}, nil }
		},
	}
	for _, c := range clauses {
		t.Run(c.name, func(t *testing.T) {
			spoil, ok := wrong[c.name]
			require.True(t, ok, "no store breaks this clause")
			opts := fullOptions()
			switch c.name {
			case "every-lookup-reports-one-hit-or-miss":
				opts.Observe = func(_ testing.TB, observer func(modcache.Event)) modcache.Store {
					s := newMapStore()
					s.observer = func(e modcache.Event) {
						if e.Err == nil { // nothing of ended contexts and closed stores
							observer(e)
						}
					}
					return s
				}
				spoil = func(*mapStore) {}
			case "handles-share-their-entries":
				opts.Share = func(_ testing.TB, s modcache.Store) modcache.Store {
					other := newMapStore()
					other.entries = maps.Clone(s.(*mapStore).entries)
					return other
				}
				spoil = func(*mapStore) {}
			}
			o := opts.validate()
			open := func(testing.TB) modcache.Store {
				s := newMapStore()
				spoil(s)
				return s
			}
			err := c.run(t, open, &o)
			assert.Error(t, err)
			t.Log(err)
			delete(wrong, c.name)
		})
	}
	require.Empty(t, wrong, "wrong stores without a clause")
}

// firstRead reads from the start whatever the offset.
type firstRead struct{ a *modcache.Artifact }

func (r firstRead) ReadAt(p []byte, _ int64) (int, error) { return r.a.ReadAt(p, 0) }

// boundRead reads for as long as a context lives.
type boundRead struct {
	io.ReaderAt
	ctx context.Context
}

func (r boundRead) ReadAt(p []byte, off int64) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.ReaderAt.ReadAt(p, off)
}

// latestRead reads whatever is under the key now.
type latestRead struct {
	s   *shelf
	key modcache.Key
}

func (r latestRead) ReadAt(p []byte, off int64) (int, error) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	return bytes.NewReader(r.s.entries[r.key].b).ReadAt(p, off)
}

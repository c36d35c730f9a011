package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"io"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/storetest"
)

// What a fault must show as: damage is deleted and replaced; what can't be read
// is left alone; a miss is no fault.
type symptom int

const (
	harmless symptom = iota // nobody notices
	absent                  // a miss
	damage                  // Corrupt
	failure                 // StoreErrors
)

// entry is what a store has under a key.
type entry struct {
	code []byte
	info modcache.Info
}

func (e entry) artifact() *modcache.Artifact {
	return modcache.NewArtifact(slices.Clone(e.code), e.info)
}

func entryOf(t testing.TB, s *storetest.Fake, key modcache.Key) entry {
	a := s.Entry(key)
	b, err := a.Bytes()
	require.NoError(t, err)
	return entry{b, a.Info()}
}

// getFault is something that a store does wrong when it is asked for an artifact.
type getFault struct {
	name string
	get  func(e, other entry) (*modcache.Artifact, bool, error)
	want symptom
}

// bytesFaults are ways in which the stored bytes can be wrong.
func bytesFaults(version int) map[string]func(code, other []byte) []byte {
	flip := func(at int, bit byte) func(code, _ []byte) []byte {
		return func(code, _ []byte) []byte {
			if at < 0 {
				at += len(code)
			}
			code[at] ^= bit
			return code
		}
	}
	const seal = 32
	head := 6 + 1 + version + 4
	codeAt := head + 8*chainLen + 8
	return map[string]func(code, other []byte) []byte{
		"another key's":    func(_, other []byte) []byte { return other },
		"empty":            func([]byte, []byte) []byte { return nil },
		"one byte":         func(code, _ []byte) []byte { return code[:1] },
		"only a seal":      func(code, _ []byte) []byte { return code[len(code)-seal:] },
		"no seal":          func(code, _ []byte) []byte { return code[:len(code)-seal] },
		"truncated by 1":   func(code, _ []byte) []byte { return code[:len(code)-1] },
		"truncated half":   func(code, _ []byte) []byte { return code[:len(code)/2] },
		"extended by 1":    func(code, _ []byte) []byte { return append(code, 0) },
		"extended in tail": func(code, _ []byte) []byte { return slices.Insert(code, len(code)-seal, 0) },
		"zeros":            func(code, _ []byte) []byte { clear(code); return code },
		"magic":            flip(0, 1),
		"version":          flip(7, 1),
		"function count":   flip(head-4, 1),
		"huge count":       flip(head-1, 0x80),
		// Function 3 moves into function 2 or so: in range, in order.
		"function offset": flip(head+8*3, 1),
		"functions swapped": func(code, _ []byte) []byte {
			a, b := code[head+8*2:head+8*3], code[head+8*3:head+8*4]
			tmp := slices.Clone(a)
			copy(a, b)
			copy(b, tmp)
			return code
		},
		"code length": flip(head+8*chainLen, 1),
		"code": func(code, _ []byte) []byte {
			code[codeAt+20] ^= 4
			return code
		},
		"code with its checksum": func(code, _ []byte) []byte {
			n := int(binary.LittleEndian.Uint64(code[head+8*chainLen:]))
			body := code[codeAt : codeAt+n]
			body[len(body)-40] ^= 4
			binary.LittleEndian.PutUint32(code[codeAt+n:], crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
			return code
		},
		"checksum": func(code, _ []byte) []byte {
			n := int(binary.LittleEndian.Uint64(code[head+8*chainLen:]))
			code[codeAt+n] ^= 1
			return code
		},
		"source map flag": flip(-seal-5, 1),
		"catch tables":    flip(-seal-4, 1),
		"seal":            flip(-1, 1),
	}
}

func getFaults(version int) (faults []getFault) {
	add := func(name string, want symptom, get func(e, other entry) (*modcache.Artifact, bool, error)) {
		faults = append(faults, getFault{name, get, want})
	}
	add("error", failure, func(_, _ entry) (*modcache.Artifact, bool, error) { return nil, false, errFault })
	add("deadline", failure, func(_, _ entry) (*modcache.Artifact, bool, error) {
		return nil, false, context.DeadlineExceeded
	})
	add("error with an artifact", failure, func(e, _ entry) (*modcache.Artifact, bool, error) { return e.artifact(), true, errFault })
	add("panic", failure, func(_, _ entry) (*modcache.Artifact, bool, error) { panic("injected") })
	add("panic with nil", failure, func(_, _ entry) (*modcache.Artifact, bool, error) { panic(nil) })
	add("nothing, found", absent, func(_, _ entry) (*modcache.Artifact, bool, error) { return nil, true, nil })
	add("something, not found", absent, func(e, _ entry) (*modcache.Artifact, bool, error) { return e.artifact(), false, nil })
	add("zero artifact", damage, func(_, _ entry) (*modcache.Artifact, bool, error) { return new(modcache.Artifact), true, nil })
	for name, engine := range map[string]string{"another engine": "somebody else's", "no engine": ""} {
		add(name, damage, func(e, _ entry) (*modcache.Artifact, bool, error) {
			e.info.Engine = engine
			return e.artifact(), true, nil
		})
	}
	from := func(e entry, f storetest.Source, size int) (*modcache.Artifact, bool, error) {
		f.Reader = bytes.NewReader(e.code)
		return modcache.NewArtifactFrom(f, int64(size), e.info), true, nil
	}
	for name, spoil := range bytesFaults(version) {
		add(name, damage, func(e, other entry) (*modcache.Artifact, bool, error) {
			return entry{spoil(slices.Clone(e.code), other.code), e.info}.artifact(), true, nil
		})
		add(name+", behind a file", damage, func(e, other entry) (*modcache.Artifact, bool, error) {
			e.code = spoil(slices.Clone(e.code), other.code)
			return from(e, storetest.Source{}, len(e.code))
		})
	}
	for name, c := range map[string]struct {
		read func(p []byte, off int64) (int, error)
		want symptom
	}{
		"fails":                          {func([]byte, int64) (int, error) { return 0, errFault }, failure},
		"fails after some":               {func(p []byte, _ int64) (int, error) { return len(p) / 2, errFault }, failure},
		"panics":                         {func([]byte, int64) (int, error) { panic("injected") }, failure},
		"finds damage":                   {func([]byte, int64) (int, error) { return 0, modcache.ErrCorrupt }, damage},
		"finds forgery":                  {func([]byte, int64) (int, error) { return 0, modcache.ErrAuth }, damage},
		"is closed":                      {func([]byte, int64) (int, error) { return 0, modcache.ErrClosed }, failure},
		"returns less, without error":    {func(p []byte, _ int64) (int, error) { return len(p) - 1, nil }, failure},
		"returns nothing":                {func([]byte, int64) (int, error) { return 0, nil }, failure},
		"ends at once":                   {func([]byte, int64) (int, error) { return 0, io.EOF }, failure},
		"returns more than it was asked": {func(p []byte, _ int64) (int, error) { return len(p) + 7, nil }, damage},
		"returns a negative count":       {func([]byte, int64) (int, error) { return -1, nil }, failure},
	} {
		add("file that "+name, c.want, func(e, _ entry) (*modcache.Artifact, bool, error) {
			return from(e, storetest.Source{OnRead: c.read}, len(e.code))
		})
	}
	for name, size := range map[string]int{"negative": -1, "zero": 0, "one byte": 1, "too small": 100, "too large": 1 << 20, "absurd": 1 << 30} {
		want := damage
		if size > 100 {
			want = failure // it ends early, perhaps only today
		}
		add("file of "+name+" size", want, func(e, _ entry) (*modcache.Artifact, bool, error) { return from(e, storetest.Source{}, size) })
	}
	add("sound file", harmless, func(e, _ entry) (*modcache.Artifact, bool, error) { return from(e, storetest.Source{}, len(e.code)) })
	add("close that fails", harmless, func(e, _ entry) (*modcache.Artifact, bool, error) {
		return from(e, storetest.Source{OnClose: func() error { return errFault }}, len(e.code))
	})
	add("close that panics", harmless, func(e, _ entry) (*modcache.Artifact, bool, error) {
		return from(e, storetest.Source{OnClose: func() error { panic("injected") }}, len(e.code))
	})
	add("damage, and a close that panics", damage, func(e, _ entry) (*modcache.Artifact, bool, error) {
		e.code = slices.Clone(e.code)
		e.code[100] ^= 1
		return from(e, storetest.Source{OnClose: func() error { panic("injected") }}, len(e.code))
	})
	add("damage on the second read only", harmless, func(e, other entry) (*modcache.Artifact, bool, error) {
		reads := 0
		return from(e, storetest.Source{OnRead: func(p []byte, off int64) (int, error) {
			if reads++; reads > 2 {
				return bytes.NewReader(other.code).ReadAt(p, off)
			}
			return bytes.NewReader(e.code).ReadAt(p, off)
		}}, len(e.code))
	})
	return faults
}

// versionLen returns the length of wazero's version in its entries.
func versionLen(e entry) int { return int(e.code[6]) }

func TestFaultsOfGet(t *testing.T) {
	needsCompiler(t)
	for _, w := range ways {
		t.Run(w.Name, func(t *testing.T) {
			reference, key, otherKey := cachetest.Filled(t, w)
			good, other := entryOf(t, reference, key), entryOf(t, reference, otherKey)
			for _, f := range getFaults(versionLen(good)) {
				t.Run(f.name, func(t *testing.T) {
					want := f.want
					if f.name == "file of absurd size" && w.Name == "Runtime" {
						want = damage // it knows what the module can need
					}
					s := &storetest.Fake{}
					s.Set(key, good.artifact())
					strikes := 0
					s.OnGet = func(_ context.Context, k modcache.Key) (*modcache.Artifact, bool, error) {
						if k != key {
							t.Errorf("asked for %v, want %v", k, key)
						}
						strikes++
						return f.get(good, other)
					}
					var seen witness
					c := newCache(t, s, seen.Options(modcache.Options{}))
					requireRuns(t, w, c, chainWasm, chainWant)
					require.Positive(t, strikes)

					m := c.Metrics()
					require.Equal(t, m.Lookups, m.Hits+m.Misses)
					require.Equal(t, want == harmless, m.Hits > 0)
					require.Equal(t, want == damage, m.Corrupt > 0, "Corrupt: %d", m.Corrupt)
					require.Equal(t, want == failure, m.StoreErrors > 0, "StoreErrors: %d", m.StoreErrors)
					require.Equal(t, want == damage, s.Calls().Delete > 0, "only damage is deleted")
					require.Equal(t, want != harmless, s.Calls().Add > 0)
					for kind, want := range map[modcache.EventKind]bool{
						modcache.EventHit: want == harmless, modcache.EventMiss: want != harmless,
						modcache.EventCorrupt: want == damage, modcache.EventStoreFailed: want == failure,
					} {
						errs := seen.Saw(kind)
						require.Equal(t, want, len(errs) > 0, "events of kind %d: %v", kind, errs)
						if kind == modcache.EventCorrupt || kind == modcache.EventStoreFailed {
							require.NotContains(t, errs, nil)
						}
					}
					require.Equal(t, want == damage || want == failure, seen.Warned() > 0)

					// Damage was replaced, and all else was left as it is.
					s.Heal()
					require.NotNil(t, s.Entry(key))
					again := newCache(t, s, seen.Options(modcache.Options{RequireHit: true}))
					requireRuns(t, w, again, chainWasm, chainWant)
				})
			}
		})
	}
}

func TestFaultsOfAddAndDelete(t *testing.T) {
	needsCompiler(t)
	for _, w := range ways {
		for name, fault := range map[string]func() error{
			"error":     func() error { return errFault },
			"panic":     func() error { panic("injected") },
			"too large": func() error { return modcache.ErrTooLarge },
			"read-only": func() error { return modcache.ErrReadOnly },
		} {
			t.Run(w.Name+" Add "+name, func(t *testing.T) {
				s := &storetest.Fake{OnAdd: func(context.Context, modcache.Key, *modcache.Artifact) error { return fault() }}
				var seen witness
				c := newCache(t, s, seen.Options(modcache.Options{}))
				requireRuns(t, w, c, chainWasm, chainWant)
				requireRuns(t, w, c, chainWasm, chainWant)
				require.EqualValues(t, 2, c.Metrics().StoreErrors)
				require.Len(t, seen.Saw(modcache.EventStoreFailed), 2)
				require.Empty(t, seen.Saw(modcache.EventStored))
				s.Heal()
				requireRuns(t, w, c, chainWasm, chainWant)
				requireRuns(t, w, c, chainWasm, chainWant)
				require.EqualValues(t, 1, c.Metrics().Hits)
			})
			t.Run(w.Name+" Delete "+name, func(t *testing.T) {
				s, key, other := cachetest.Filled(t, w)
				s.Set(key, s.Entry(other))
				s.OnDelete = func(context.Context, modcache.Key) error { return fault() }
				var seen witness
				c := newCache(t, s, seen.Options(modcache.Options{}))
				requireRuns(t, w, c, chainWasm, chainWant)
				require.EqualValues(t, 1, c.Metrics().Corrupt)
				require.EqualValues(t, 1, c.Metrics().StoreErrors)
				s.Heal()
				requireRuns(t, w, c, chainWasm, chainWant)
				requireRuns(t, w, c, chainWasm, chainWant)
				require.EqualValues(t, 1, c.Metrics().Hits)
			})
		}
	}
}

func TestFaultsOfFlushAndMetrics(t *testing.T) {
	s := &storetest.Fake{
		OnFlush:   func(context.Context) error { return errFault },
		OnMetrics: func() modcache.Metrics { return modcache.Metrics{Entries: 3} },
	}
	c := newCache(t, s, nil)
	require.ErrorIs(t, c.Flush(bg), errFault)
	require.EqualValues(t, 3, c.Metrics().Store.Entries)
	s.OnFlush = func(context.Context) error { panic("injected") }
	s.OnMetrics = func() modcache.Metrics { panic("injected") }
	require.ErrorContains(t, c.Flush(bg), "injected")
	require.EqualValues(t, 3, c.Metrics().Store.Entries, "what it said last")
}

func TestFaultsOfLock(t *testing.T) {
	needsCompiler(t)
	for name, lock := range map[string]func(ctx context.Context, key modcache.Key) (func(), error){
		"error":        func(context.Context, modcache.Key) (func(), error) { return nil, errFault },
		"panic":        func(context.Context, modcache.Key) (func(), error) { panic("injected") },
		"nothing":      func(context.Context, modcache.Key) (func(), error) { return nil, nil },
		"unlock panic": func(context.Context, modcache.Key) (func(), error) { return func() { panic("injected") }, nil },
		"never": func(ctx context.Context, _ modcache.Key) (func(), error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			var seen witness
			var wait time.Duration // the default
			if name == "never" {
				wait = time.Nanosecond
			}
			c := newCache(t, &storetest.Locking{OnLock: lock}, seen.Options(modcache.Options{LockWait: wait}))
			requireRuns(t, ways[1], c, chainWasm, chainWant)
			if name != "never" {
				require.NotZero(t, c.Metrics().StoreErrors)
			}
			requireRuns(t, ways[1], c, chainWasm, chainWant)
			require.NotZero(t, c.Metrics().Hits)
		})
	}
}

// A store that answers late delays a compile and does nothing else.
func TestSlowStore(t *testing.T) {
	needsCompiler(t)
	for _, w := range ways {
		t.Run(w.Name, func(t *testing.T) {
			s := &storetest.Fake{}
			asked, answer := make(chan bool, 8), make(chan bool)
			s.OnGet = func(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
				asked <- true
				<-answer
				return s.Below().Get(ctx, key)
			}
			c := newCache(t, s, &modcache.Options{Retain: forget})
			for range 2 {
				type result struct {
					got uint64
					err error
				}
				done := make(chan result)
				go func() {
					got, err := w.Run(c, chainWasm)
					done <- result{got, err}
				}()
				<-asked
				select {
				case <-done:
					t.Fatal("did not wait for the store")
				default:
				}
				answer <- true
				r := <-done
				require.NoError(t, r.err)
				require.EqualValues(t, chainWant, r.got)
			}
			require.EqualValues(t, 1, c.Metrics().Hits)
		})
	}
}

// That an artifact was found to be right for one key says nothing about another, even if a
// store gives the same handle to everybody, as one in memory does.
func TestHandlesUnderAnotherKey(t *testing.T) {
	needsCompiler(t)
	for _, w := range ways {
		handles := map[modcache.Key]*modcache.Artifact{}
		c := newCache(t, &storetest.Fake{
			OnGet: func(_ context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
				a, ok := handles[key]
				return a, ok, nil
			},
			OnAdd: func(_ context.Context, key modcache.Key, a *modcache.Artifact) error {
				handles[key] = a
				return nil
			},
			OnDelete: func(context.Context, modcache.Key) error { return nil },
		}, &modcache.Options{Retain: forget})
		for range 2 {
			requireRuns(t, w, c, chainWasm, chainWant)
			requireRuns(t, w, c, otherWasm, otherWant)
		}
		require.EqualValues(t, 2, c.Metrics().Hits)
		keys := slices.Collect(maps.Keys(handles))
		require.Len(t, keys, 2)
		handles[keys[0]], handles[keys[1]] = handles[keys[1]], handles[keys[0]]
		requireRuns(t, w, c, chainWasm, chainWant)
		requireRuns(t, w, c, otherWasm, otherWant)
		require.EqualValues(t, 2, c.Metrics().Hits)
		require.EqualValues(t, 2, c.Metrics().Corrupt)
	}
}

package modcachetest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
)

var errInjected = errors.New("injected")

// filled returns a faulty store with b under keyOf(1).
func filled(t *testing.T, b []byte, plan *Plan) *FaultyStore {
	t.Helper()
	s := newMapStore()
	require.NoError(t, s.Add(t.Context(), keyOf(1), artifactOf(b)))
	return NewFaulty(s, plan)
}

func TestFaultyWithoutAPlanIsTheStore(t *testing.T) {
	TestStore(t, func(testing.TB) modcache.Store { return NewFaulty(newMapStore(), nil) }, &Options{ExclusiveLocks: true})
}

func TestFaultyStrikesTheNthCall(t *testing.T) {
	f := filled(t, []byte("code"), &Plan{Faults: []Fault{{Op: OpGet, Nth: 2, Err: errInjected}}})
	for call := 1; call <= 3; call++ {
		a, ok, err := f.Get(t.Context(), keyOf(1))
		if call == 2 {
			require.ErrorIs(t, err, errInjected)
			require.False(t, ok)
			require.Nil(t, a)
			continue
		}
		require.NoError(t, err)
		require.True(t, ok)
		require.NoError(t, a.Close())
	}
	require.NoError(t, f.Delete(t.Context(), keyOf(1)))
	require.Equal(t, 3, f.Calls(OpGet))
	require.Equal(t, 4, f.Calls(OpAny))
}

func TestFaultyStrikesTheSameCallsForASeed(t *testing.T) {
	history := func(seed uint64) (failed []int) {
		f := NewFaulty(newMapStore(), &Plan{Seed: seed, Faults: []Fault{{Rate: 0.3, Err: errInjected}}})
		for i := range 100 {
			if f.Flush(t.Context()) != nil {
				failed = append(failed, i)
			}
		}
		return failed
	}
	require.Equal(t, history(1), history(1))
	require.NotEqual(t, history(1), history(2))
	require.InDelta(t, 30, len(history(1)), 20)
}

func TestFaultySpoilsBytes(t *testing.T) {
	code := payload(keyOf(1), 0, 1000)
	read := func(s modcache.Store) []byte {
		b, err := (&env{s: s, ctx: t.Context(), o: &Options{}}).read(keyOf(1))
		require.NoError(t, err)
		return b
	}
	t.Run("flipped on the way out", func(t *testing.T) {
		f := filled(t, code, &Plan{Faults: []Fault{{Op: OpGet, Corrupt: true}}})
		got := read(f)
		require.Len(t, got, len(code))
		require.NotEqual(t, code, got)
		f.Heal()
		require.Equal(t, code, read(f))
	})
	t.Run("cut off on the way in", func(t *testing.T) {
		f := NewFaulty(newMapStore(), &Plan{Faults: []Fault{{Op: OpAdd, Truncate: true}}})
		require.NoError(t, f.Add(t.Context(), keyOf(1), artifactOf(code)))
		got := read(f)
		require.Less(t, len(got), len(code))
		require.Equal(t, code[:len(got)], got)
	})
}

func TestFaultyDelaysAndHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFaulty(newMapStore(), &Plan{Faults: []Fault{{Op: OpFlush, Delay: time.Hour}, {Op: OpDelete, Hang: true}}})
		start := time.Now()
		require.NoError(t, f.Flush(t.Context()))
		require.Equal(t, time.Hour, time.Since(start))

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, f.Flush(ctx), context.DeadlineExceeded)

		done := make(chan error)
		go func() { done <- f.Delete(ctx, keyOf(1)) }()
		synctest.Wait()
		select {
		case <-done:
			t.Fatal("the call doesn't hang")
		default:
		}
		f.Release()
		require.NoError(t, <-done)
	})
}

func TestFaultyPanics(t *testing.T) {
	f := NewFaulty(newMapStore(), &Plan{Faults: []Fault{{Op: OpMetrics, Panic: "boom"}, {Op: OpLock, Err: errInjected}}})
	require.PanicsWithValue(t, "boom", func() { f.Metrics() })
	_, err := f.Lock(t.Context(), keyOf(1))
	require.ErrorIs(t, err, errInjected)
}

const childVar = "MODCACHETEST_CHILD"

// TestWrongStoreFailsByName sees a wrong store fail TestStore in a process of its
// own, since a failing subtest fails its parents.
func TestWrongStoreFailsByName(t *testing.T) {
	open := func(testing.TB) modcache.Store {
		s := newMapStore()
		s.onDel = func(modcache.Key) (bool, error) { return true, errInjected }
		return s
	}
	if os.Getenv(childVar) != "" {
		TestStore(t, open, &Options{Skip: []string{"random-history-agrees-with-a-map"}})
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestWrongStoreFailsByName$", "-test.v")
	cmd.Env = append(os.Environ(), childVar+"=1")
	out, err := cmd.Output()
	require.Error(t, err, "the child must fail")
	var failed []string
	for _, m := range regexp.MustCompile(`--- FAIL: TestWrongStoreFailsByName/(\S+)`).FindAllSubmatch(out, -1) {
		failed = append(failed, string(m[1]))
	}
	require.ElementsMatch(t, []string{
		"deleted-entry-is-gone", "delete-of-an-absent-key-is-nil", "deleted-key-can-be-added-again",
		"every-size-is-kept-whole", "handle-never-reads-what-came-later", "closed-store-answers-ErrClosed", "goroutines-see-only-what-was-added",
	}, failed)
}

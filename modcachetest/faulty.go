package modcachetest

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/modcache/modcache"
)

// Op names an operation of a store.
type Op uint8

// Operations that a [Fault] can be about.
const (
	OpAny Op = iota
	OpGet
	OpAdd
	OpDelete
	OpFlush
	OpMetrics
	OpLock
	numOps
)

// Fault is something that goes wrong. Its first three fields say when, the
// others what; what is combined happens in the order of the fields.
type Fault struct {
	Op   Op      // which operations; zero: all
	Nth  int     // only the Nth of them, counted from 1
	Rate float64 // or a part of them, 0 to 1; if both are zero, every one

	Delay time.Duration // first waits, or until the context ends
	Hang  bool          // blocks whatever the context says, until Release
	Panic any           // panics with this value if it isn't nil
	Err   error         // fails with this error; the store below is not asked

	// Get returns, and Add stores, other bytes than it should: one bit
	// flipped, or the end cut off.
	Corrupt, Truncate bool
}

// Plan says what goes wrong in a [FaultyStore]. Random choices follow Seed.
type Plan struct {
	Seed   uint64
	Faults []Fault
}

// FaultyStore is a store in which things go wrong. It may be used by several
// goroutines at once if the store below may.
type FaultyStore struct {
	store   modcache.Store
	release chan struct{}
	once    sync.Once

	mu     sync.Mutex
	faults []Fault
	rand   *rand.Rand
	calls  [numOps]int
}

// NewFaulty wraps a store so that things go wrong as planned. A nil plan is none:
// the store then only counts calls. Like the [modcache.Store] it wraps it has
// locks, if that has; else Lock succeeds at once.
func NewFaulty(s modcache.Store, plan *Plan) *FaultyStore {
	if plan == nil {
		plan = &Plan{}
	}
	return &FaultyStore{
		store:   s,
		release: make(chan struct{}),
		faults:  slices.Clone(plan.Faults),
		rand:    rand.New(rand.NewPCG(plan.Seed, 0)),
	}
}

// Calls returns how often op was called; [OpAny] means all operations.
func (f *FaultyStore) Calls(op Op) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

// Release lets hanging calls go on, and no later one hangs.
func (f *FaultyStore) Release() { f.once.Do(func() { close(f.release) }) }

// Heal forgets the plan: from now on nothing goes wrong. Calls that hang
// already go on doing so.
func (f *FaultyStore) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = nil
}

// inject counts the call, does what is planned for it, and returns how to damage the
// artifact that it carries, or nil.
func (f *FaultyStore) inject(ctx context.Context, op Op) (spoil func(*modcache.Artifact) (*modcache.Artifact, error), err error) {
	f.mu.Lock()
	f.calls[OpAny]++
	f.calls[op]++
	var due []Fault
	for _, fault := range f.faults {
		if (fault.Op == OpAny || fault.Op == op) &&
			(fault.Nth == 0 || fault.Nth == f.calls[fault.Op]) &&
			(fault.Rate == 0 || f.rand.Float64() < fault.Rate) {
			due = append(due, fault)
		}
	}
	where := f.rand.Uint64()
	f.mu.Unlock()

	for _, fault := range due {
		if fault.Delay > 0 {
			select {
			case <-time.After(fault.Delay):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		if fault.Hang {
			<-f.release
		}
		if fault.Panic != nil {
			panic(fault.Panic)
		}
		if fault.Err != nil {
			return nil, fault.Err
		}
		if fault.Corrupt || fault.Truncate {
			spoil = func(a *modcache.Artifact) (*modcache.Artifact, error) { return spoilArtifact(a, where, fault.Truncate) }
		}
	}
	return spoil, nil
}

// spoilArtifact returns a copy of a that is damaged: cut off, or with one bit flipped.
func spoilArtifact(a *modcache.Artifact, where uint64, truncate bool) (*modcache.Artifact, error) {
	b, err := a.Bytes()
	if err != nil {
		return nil, err
	}
	switch b = bytes.Clone(b); {
	case len(b) == 0:
		b = []byte{0}
	case truncate:
		b = b[:where%uint64(len(b))]
	default:
		b[where%uint64(len(b))] ^= 1 << (where >> 61)
	}
	return modcache.NewArtifact(b, a.Info()), nil
}

// Get implements [modcache.Store].
func (f *FaultyStore) Get(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
	spoil, err := f.inject(ctx, OpGet)
	if err != nil {
		return nil, false, err
	}
	a, ok, err := f.store.Get(ctx, key)
	if !ok || err != nil || spoil == nil {
		return a, ok, err
	}
	bad, err := spoil(a)
	_ = a.Close() // replaced by a copy
	return bad, err == nil, err
}

// Add implements [modcache.Store].
func (f *FaultyStore) Add(ctx context.Context, key modcache.Key, a *modcache.Artifact) error {
	spoil, err := f.inject(ctx, OpAdd)
	if err != nil {
		return err
	}
	if spoil != nil {
		if a, err = spoil(a); err != nil {
			return err
		}
	}
	return f.store.Add(ctx, key, a)
}

// Delete implements [modcache.Store].
func (f *FaultyStore) Delete(ctx context.Context, key modcache.Key) error {
	if _, err := f.inject(ctx, OpDelete); err != nil {
		return err
	}
	return f.store.Delete(ctx, key)
}

// Flush implements [modcache.Store].
func (f *FaultyStore) Flush(ctx context.Context) error {
	if _, err := f.inject(ctx, OpFlush); err != nil {
		return err
	}
	return f.store.Flush(ctx)
}

// Metrics implements [modcache.Store]. It returns zeros where it can't fail.
func (f *FaultyStore) Metrics() modcache.Metrics {
	if _, err := f.inject(context.Background(), OpMetrics); err != nil {
		return modcache.Metrics{}
	}
	return f.store.Metrics()
}

// Lock implements [modcache.Locker].
func (f *FaultyStore) Lock(ctx context.Context, key modcache.Key) (unlock func(), err error) {
	if _, err := f.inject(ctx, OpLock); err != nil {
		return nil, err
	}
	if l, ok := f.store.(modcache.Locker); ok {
		return l.Lock(ctx, key)
	}
	return func() {}, nil
}

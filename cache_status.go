package modcache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modcache/modcache/internal/brief"
	"github.com/modcache/modcache/internal/bytesize"
	"github.com/modcache/modcache/internal/wazerohook"
)

// Status says whether a [Cache] does what it is for, and if not, why. It is a snapshot for
// operators; its JSON form suits a health page.
type Status struct {
	// Storing says that what is compiled is stored where it was meant to be, as far as is known: the
	// last attempt succeeded, or there was none yet. An artifact that is too large for a store
	// which has taken others doesn't count.
	Storing bool      `json:"storing"`
	Since   time.Time `json:"since,omitzero"` // when storing ended; zero if Storing
	Why     string    `json:"why,omitempty"`  // it isn't storing
	Err     error     `json:"-"`              // Why, for errors.Is; nil if Storing

	// Store is what is in use: "disk", "memory", "layered" or a type of Go. Dir is the directory
	// of a Disk, or the one that memory stands in for; also where Options.Behind has stores behind it.
	Store    string `json:"store"`
	Dir      string `json:"dir,omitempty"`
	InMemory bool   `json:"in_memory"` // memory stands in for the directory, or for the store of New
	ReadOnly bool   `json:"read_only"`

	// What the store holds, or with Options.Behind its first layer; -1 if that isn't known: nobody has looked at all entries yet, or
	// the store doesn't tell. AsOf is when somebody looked, if that was in another process or long ago; see
	// [DiskUsage]. MaxBytes is the limit; -1 is none, 0 is unknown.
	Entries  int64     `json:"entries"`
	Bytes    int64     `json:"bytes"`
	MaxBytes int64     `json:"max_bytes"`
	AsOf     time.Time `json:"as_of,omitzero"`

	// The last failure of the store or damage in it, which may be over.
	LastError   string    `json:"last_error,omitempty"`
	LastErr     error     `json:"-"`
	LastErrorAt time.Time `json:"last_error_at,omitzero"`

	// Untrusted says which key an entry was sealed or signed with that isn't trusted here, and which keys are:
	// the last one that was found; "" if none was. Entries of such a key are compiled again.
	Untrusted   string    `json:"untrusted,omitempty"`
	UntrustedAt time.Time `json:"untrusted_at,omitzero"`

	// EngineKnown says that other processes can have the same EngineID. If not, nothing is stored.
	EngineID    string `json:"engine_id"`
	EngineKnown bool   `json:"engine_known"`

	// Wazero is the version of wazero as its entries name it; "" if nothing can be plugged into it,
	// which Unsupported explains.
	Wazero      string `json:"wazero,omitempty"`
	Unsupported string `json:"unsupported,omitempty"`

	// Env lists the variables that [Open] has followed, as NAME=value.
	Env []string `json:"env,omitempty"`

	// Off lists what is off in this process, each with the reason. [EventDegraded] told it.
	Off []string `json:"off,omitempty"`
}

// String sums it up in one line for people; its form may change.
func (s Status) String() string {
	var b strings.Builder
	switch {
	case s.Storing:
		b.WriteString("storing")
	case s.InMemory:
		b.WriteString("in memory only")
	default:
		b.WriteString("not storing")
	}
	fmt.Fprintf(&b, " (%s", s.Store)
	if s.Dir != "" {
		b.WriteString(" " + s.Dir)
	}
	if s.Entries >= 0 {
		fmt.Fprintf(&b, ", %d entries", s.Entries)
	}
	if s.Bytes >= 0 {
		b.WriteString(", " + bytesize.Format(s.Bytes))
		if s.MaxBytes > 0 {
			b.WriteString(" of " + bytesize.Format(s.MaxBytes))
		}
	}
	b.WriteString(")")
	if !s.Storing {
		fmt.Fprintf(&b, " since %s: %s", s.Since.UTC().Format(time.RFC3339), s.Why)
	}
	if s.LastError != "" && s.LastError != s.Why {
		fmt.Fprintf(&b, "; last error at %s: %s", s.LastErrorAt.UTC().Format(time.RFC3339), s.LastError)
	}
	return b.String()
}

// Status says what the Cache is doing. It looks at no entry, so that it may be called often; for a
// store that hangs, it waits for at most five seconds.
func (c *Cache) Status() Status {
	now := c.inUse.Load()
	s := Status{
		InMemory: c.inMemory(),
		Store:    storeName(now.store), ReadOnly: c.readOnly(),
		EngineID: c.engineID, EngineKnown: !strings.HasPrefix(c.engineID, unknownEngine),
		Entries: -1, Bytes: -1, Env: slices.Clone(c.env.Set),
	}
	w, err := wazerohook.Probe() // once, which compiles a tiny module
	switch err = cmp.Or(c.unsupported, err); {
	case err != nil:
		s.Unsupported = err.Error()
	default:
		s.Wazero = w.Version
	}
	s.why(c)
	s.levels(c)
	if d, ok := now.front.(*Disk); ok {
		s.Dir = d.dir
	}
	if c.late != nil && !c.late.done.Load() {
		s.Dir = c.late.dir
	}
	if last := c.health.last.Load(); last != nil {
		s.LastErr, s.LastError, s.LastErrorAt = last.err, last.err.Error(), last.at
	}
	if found := c.health.untrusted.Load(); found != nil {
		s.Untrusted, s.UntrustedAt = found.err.Error(), found.at
	}
	c.degraded.Range(func(feature, err any) bool {
		s.Off = append(s.Off, fmt.Sprintf("%s: %s", feature, strings.TrimPrefix(err.(error).Error(), "modcache: ")))
		return true
	})
	slices.Sort(s.Off)
	return s
}

// why finds the first reason for which nothing is stored.
func (s *Status) why(c *Cache) {
	reason := stoppage{at: c.born}
	idle := c.idle.Load()
	switch outage := c.health.outage("add"); {
	case c.Closed():
		reason.err = errCacheClosed
	case s.Unsupported != "":
		reason.err = fmt.Errorf("%w: %s", ErrUnsupportedWazero, s.Unsupported)
	case idle != nil:
		reason = *idle
	case c.opts.ReadOnly:
		reason.err = errReadOnlyOption
		if c.env.ReadOnly {
			reason.err = errReadOnlyEnv
		}
	case outage != nil:
		reason = *outage
	default:
		s.Storing = true
		return
	}
	s.Err, s.Why, s.Since = reason.err, strings.TrimPrefix(reason.err.Error(), "modcache: "), reason.at
}

var (
	errReadOnlyOption = errors.New("Options.ReadOnly asks for that")
	errReadOnlyEnv    = errors.New("the environment says MODCACHE=ro")
)

// levels says what is in the store, as far as it is known without looking.
func (s *Status) levels(c *Cache) {
	u, err := ask(context.Background(), c, c.reports, storeWait, func(context.Context, Store) (u DiskUsage, _ error) {
		switch store := c.inUse.Load().front.(type) {
		case *Disk:
			u = store.Usage()
			if u.AsOf.IsZero() {
				u.Entries, u.Bytes = -1, -1
			}
		case *Memory:
			m := store.Metrics()
			u = DiskUsage{Entries: int(m.Entries), Bytes: int64(m.Bytes), MaxBytes: store.limit()}
		default:
			m := store.Metrics()
			u = DiskUsage{Entries: int(m.Entries), Bytes: int64(m.Bytes)}
			if m.Entries == 0 { // perhaps nobody has looked
				u.Entries, u.Bytes = -1, -1
			}
		}
		return u, nil
	}, nil)
	if err == nil {
		s.Entries, s.Bytes, s.MaxBytes, s.AsOf = int64(u.Entries), u.Bytes, u.MaxBytes, u.AsOf
	}
}

func storeName(s Store) string {
	name := fmt.Sprintf("%T", s)
	if ours, ok := strings.CutPrefix(name, "*modcache."); ok {
		return strings.ToLower(ours)
	}
	return name
}

// stoppage is a failure, or what keeps a Cache from storing, and since when.
type stoppage struct {
	at  time.Time
	err error
}

// stopped returns one that is kept for as long as the Cache, however long the text of err is.
func stopped(at time.Time, err error) *stoppage { return &stoppage{at, shortened(err)} }

// shortened returns what is kept in the place of err, of which errors.Is says the same.
func shortened(err error) error {
	e, ours := err.(*Error)
	if !ours || len(err.Error()) <= brief.Max {
		return brief.Error(err, ErrMiss, ErrCorrupt, ErrAuth, ErrOtherKey, ErrUnavailable, ErrTooLarge, ErrInsecureDir,
			ErrUnsupportedWazero, ErrClosed, ErrReadOnly, fs.ErrPermission, fs.ErrNotExist, context.Canceled, context.DeadlineExceeded)
	}
	short := *e
	short.Err = shortened(e.Err)
	return &short
}

// health remembers how the calls of the store went.
type health struct {
	last      atomic.Pointer[stoppage]
	untrusted atomic.Pointer[stoppage] // an entry under a key that isn't trusted
	added     atomic.Bool              // something, once
	outages   sync.Map                 // by operation: *stoppage, of the first failure since one that worked
}

// failed notes that an operation failed, and reports whether it has failed before and not worked since.
// What is too large for a store that has taken something says nothing about it. Without a lock, processes may compile the same;
// if that is because nothing can be written, the Add that follows is the news.
func (h *health) failed(op string, err error, now time.Time) (again bool) {
	s := h.note(err, now)
	if errors.Is(err, ErrTooLarge) && h.added.Load() {
		return false
	}
	_, again = h.outages.LoadOrStore(op, s)
	return again || op == "lock" || op == "add"+ofAlias && h.outage("add") != nil
}

// ofAlias ends an operation that is apart from that with code: where code doesn't fit, an alias still may, which says nothing about it.
const ofAlias = " alias"

// note remembers the last failure, of whatever kind, and returns what is kept of it.
func (h *health) note(err error, now time.Time) *stoppage {
	s := stopped(now, err)
	h.last.Store(s)
	return s
}

// worked notes that an operation succeeded.
func (h *health) worked(op string) {
	if op == "add" {
		h.added.Store(true)
	}
	h.outages.Delete(op)
}

// outage returns the failure since which an operation hasn't worked, or nil.
func (h *health) outage(op string) *stoppage {
	if found, ok := h.outages.Load(op); ok {
		return found.(*stoppage)
	}
	return nil
}

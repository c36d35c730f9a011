package modcache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/modcache/modcache/internal/books"
	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/dirfs"
	"github.com/modcache/modcache/internal/frame"
	"github.com/modcache/modcache/internal/layout"
	"github.com/modcache/modcache/internal/option"
	"github.com/modcache/modcache/internal/watchers"
)

// Defaults of [DiskOptions].
const (
	DefaultDiskMaxBytes = 2 << 30
	DefaultDiskMaxAge   = 30 * 24 * time.Hour
)

// DiskOptions configure a [Disk]. Zero fields stand for the defaults.
type DiskOptions struct {
	// MaxBytes bounds the bytes that all entries take on disk: whole blocks of the file
	// system, mostly of 4 KiB, as du counts them. Negative = unbounded,
	// 0 = DefaultDiskMaxBytes. One Disk keeps the bound at every
	// instant. Where several add to a directory at the same time, in one process or more, each may exceed it by
	// 1/16, or one entry, before it notices. Files being written come on top. So
	// does what others add where directories can't be listed, which an event says.
	// An Add that evicts makes room for 1/64 at once.
	// None of that needs a trim: where no process is long enough for one, each Add looks at all entries.
	// If there is already more, as when MaxBytes was lowered, each Add evicts about 1,000 entries, or
	// twice what it adds if that is more, until the bound holds; Trim evicts all that is too much.
	MaxBytes int64
	// MinFree is how much space Add leaves free on the file system; negative = none,
	// 0 = 5 %, but at most 1 GiB. If others leave less, Add evicts entries as it does
	// for MaxBytes. So do Trim and, unless MaxBytes and MaxAge bound nothing, the trim after OpenDisk.
	MinFree int64
	// MaxAge is how long an entry may go unused before Trim, or the trim
	// after OpenDisk, drops it; negative = forever, 0 = DefaultDiskMaxAge. Nothing is dropped for its age where
	// all processes end before that trim does, which looks at all entries: see OpenDisk.
	MaxAge time.Duration
	// Key is a secret of at least 16 bytes with which entries are sealed and
	// checked. Without one, entries are protected against damage, not against
	// somebody who writes to the directory. Entries sealed under another key, or
	// under none, are misses, and replaced by the next Add. The secret isn't
	// stored. An empty one that isn't nil, as of a variable that isn't set, is an error. All bytes count:
	// of a text file, cut the newline, as the command does.
	Key []byte
	// Group shares the directory with its group: all of its members may write to it, and so
	// decide what programs that use it run. One that is made is open to the group of
	// the process, or of the directory above it if that has the setgid bit. One that
	// exists is used if it is open to a group that the process is in. Without Group and Key, such a
	// directory is refused. Nothing on Windows.
	Group bool
	// Compress encodes new entries with zstd. For the 24 MB of machine code of a
	// 9 MB module that was a fifth of the space; on two cores, Add took 50 ms
	// instead of 4, and reading 11 ms instead of 1. A Disk reads entries of both
	// kinds whatever is set here.
	Compress bool
	// SyncEveryAdd makes every Add durable before it returns, as if by Flush.
	SyncEveryAdd bool
	// ReadOnly never writes: no entry, no directory, no time of use. A directory
	// that is missing is an empty store, until there is one.
	ReadOnly bool

	Name    string           // of the store in events; "" = "disk"
	OnEvent func(Event)      // see Event
	Now     func() time.Time // the clock; nil = time.Now. It must not use the Disk, nor a Cache over it, which may wait for it

	// What validate makes of Key: a function, into which package fmt doesn't look.
	auth func() frame.Auth
}

// Format implements [fmt.Formatter]: it hides the Key. In an unexported field of another struct,
// also behind a pointer, package fmt calls no method, and prints it.
func (o DiskOptions) Format(f fmt.State, verb rune) {
	type plain DiskOptions // without this method
	if len(o.Key) > 0 {
		o.Key = []byte("hidden")
	}
	fmt.Fprintf(f, fmt.FormatString(f, verb), plain(o))
}

// validate returns a copy in which every field has the value that it stands for.
func (o *DiskOptions) validate() (DiskOptions, error) {
	var v DiskOptions
	if o != nil {
		v = *o
	}
	if v.Key != nil { // one that is empty comes of a variable that isn't set
		var err error
		if v.auth, err = secretAuth("DiskOptions.Key", v.Key); err != nil {
			return v, err
		}
		v.Key = nil // the secret is the caller's, who may wipe it
	}
	v.MaxBytes = option.Number(v.MaxBytes, DefaultDiskMaxBytes, -1)
	v.MaxAge = option.Number(v.MaxAge, DefaultDiskMaxAge, -1)
	v.Name = cmp.Or(v.Name, "disk")
	if v.Now == nil {
		v.Now = time.Now
	}
	return v, nil
}

// secretAuth returns what a secret seals with, in a function, into which package fmt doesn't look.
func secretAuth(field string, secret []byte) (func() frame.Auth, error) {
	const minSecret = 16
	if len(secret) < minSecret {
		return nil, fmt.Errorf("modcache: %s has %d bytes, want at least %d random ones", field, len(secret), minSecret)
	}
	auth := frame.NewKeyed(secret)
	return func() frame.Auth { return auth }, nil
}

// Disk is a [Store] in a directory, which any number of processes and Disks may
// share. Entries appear at once and whole (a file is written aside and renamed),
// and nothing is served that isn't exactly what was added under its key.
//
// Add doesn't wait for the storage device: after a power failure, an entry that
// wasn't flushed may be gone or damaged, which makes it a miss. [Disk.Flush] makes
// entries durable.
//
// Damage that is found, by Get or by a later read of an artifact that Get
// returned, makes the entry a miss: the file is moved to a small quarantine
// beside the entries, counted in [Metrics].Corrupt and reported by
// [EventCorrupt]. A read that fails for another reason, such as an I/O error or
// too many open files, deletes nothing.
//
// The directory must be one that nobody else can write to but root, which is checked on
// Unix only; see DiskOptions.Key and Group for those that are shared. On network file systems, renaming is atomic on the
// server but other clients may see it late, locks may be unsupported or local
// to one machine, and Flush is as durable as the server makes it. What is read is
// verified there too. Don't point machines that don't trust each other at one
// directory without a Key.
//
// Between its calls of the file system, a method heeds its context. It can't end one that hangs, as of a hard mount whose server is
// gone: then it returns when the file system answers. Only Lock and Close return before that, and what asks the Disk for
// you with a limit, as a [Cache], a [Layered] and remote.Handler do.
//
// Deleting the directory, or anything in it, is safe at any time, and so is moving it. The
// next Add or Lock of an open Disk makes it anew, or opens what has its name by then, with
// the checks of OpenDisk. So does a Get that finds nothing, or fails as after a file system went and came back, but it
// makes nothing, and looks once a second unless the Disk is ReadOnly.
type Disk struct {
	dir     string
	o       DiskOptions
	rules   dirfs.Rules
	openFS  func(dir string) (dirfs.FS, error)
	opened  atomic.Pointer[dirfs.FS] // nil: ReadOnly without a directory
	place   atomic.Pointer[dirfs.Place]
	opening sync.Mutex
	frame   frame.Options

	amongOthers atomic.Pointer[dirfs.FS] // what was opened, if it can't be marked as a cache

	watchers watchers.List[Event]
	usage    books.Usage
	walks    singleflight.Group
	pending  books.Pending
	futile   atomic.Pointer[books.Futile] // nil: not looked up
	written  atomic.Int64                 // bytes

	stampSought, moveSought atomic.Int64 // when, in nanoseconds since 1970

	unlisted atomic.Value // string: shards that the last walk couldn't list

	writing sync.Map // name of a temporary file that is being written
	locks   *bounded.Lane

	damaged sync.Map // Key to fs.FileInfo: damaged entries that couldn't be moved away

	counters struct {
		lookups, hits, misses, adds, rejected, evictions, evictedBytes atomic.Uint64
		flushes, flushErrors, corrupt, errors                          atomic.Uint64
	}

	closed     atomic.Bool
	background sync.WaitGroup
	stop       context.CancelFunc
}

var (
	_ Store    = (*Disk)(nil)
	_ Locker   = (*Disk)(nil)
	_ Replacer = (*Disk)(nil)
)

// OpenDisk opens the store in dir, which it creates if need be, along with
// the directories above it. It doesn't look at the entries: when the last trim
// is more than an hour old, one is started in the background. It takes some half a second for 100,000 entries, and
// Close ends it; then a later process begins anew. Where all are too short, have Trim or the command modcache trim
// drop what went unused, and remove what crashed processes left. A directory that
// others could write to or replace is refused with [ErrInsecureDir], and nothing is made on
// the way: docs/trust.md has the rules. Symbolic links are followed if they are this
// user's or root's. In a directory of another user, root makes nothing.
//
// Give the store a directory of its own. Among files of others it works, too, but doesn't mark the directory as a cache, which
// would have backups leave them out; so the command modcache, which goes by that mark, reads it, and no more.
func OpenDisk(dir string, o *DiskOptions) (*Disk, error) { return openDisk(dir, o, dirfs.Open) }

// isURL tells what was meant for a server, such as the second argument of remote.OpenFleet.
func isURL(dir string) bool {
	scheme, _, ok := strings.Cut(dir, "://")
	return ok && len(scheme) > 1 && !strings.ContainsAny(scheme, `/\`)
}

// errURL doesn't quote the URL, which may hold a password.
var errURL = errors.New("modcache: a URL stands where a directory is wanted")

// openDisk is OpenDisk over the file system that open returns, with observers from the start.
func openDisk(dir string, o *DiskOptions, open func(dir string) (dirfs.FS, error), observers ...func(Event)) (*Disk, error) {
	v, err := o.validate()
	if err != nil {
		return nil, err
	}
	if dir == "" {
		return nil, errors.New("modcache: OpenDisk needs the name of a directory")
	}
	if isURL(dir) {
		return nil, errURL
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("modcache: OpenDisk: %w", err)
	}
	rules := dirfs.Rules{Keyed: v.auth != nil, Group: v.Group, ReadOnly: v.ReadOnly}
	d := &Disk{dir: dir, o: v, rules: rules, openFS: open, locks: bounded.NewLane(maxStoreCalls), frame: frame.Options{Compressor: frame.NewCompressor(), Compress: v.Compress}}
	if v.auth != nil {
		d.frame.Auth = v.auth()
	}
	for _, observe := range observers {
		d.watchers.Add(observe)
	}
	if err := d.openTree(); err != nil {
		return nil, d.errorOf("open", Key{}, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	d.stop = stop
	if v.ReadOnly {
		return d, nil
	}
	since := d.sinceTrim()
	if since == never {
		d.sign()
	}
	if trimDue(since) {
		d.background.Go(func() { d.trimInBackground(ctx) })
	}
	return d, nil
}

// openTree finds or makes the directory. Where there is none and must not be, it opens
// nothing.
func (d *Disk) openTree() error {
	place, err := d.rules.Find(d.dir)
	if d.o.ReadOnly && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	tree, err := d.openFS(place.Path)
	if err != nil {
		return err
	}
	// What was checked and what was opened must be one directory.
	if opened, err := tree.Lstat("."); err != nil || !os.SameFile(place.Info, opened) {
		_ = tree.Close()
		return fmt.Errorf("%w: it was replaced while it was opened", ErrInsecureDir)
	}
	d.place.Store(place)
	d.opened.Store(&tree)
	return nil
}

// sign leaves what says whose directory it is, but not among files of others: backups leave out all that is beside the tag.
// The store works without.
func (d *Disk) sign() {
	opened := d.opened.Load()
	if d.amongOthers.Load() == opened { // of whom there may be very many
		return
	}
	tree := *opened
	if _, err := tree.Lstat(layout.Tag); err != nil {
		files, err := tree.ReadDir(".")
		if err != nil {
			return
		}
		if slices.ContainsFunc(files, func(fi fs.FileInfo) bool { return !layout.IsName(fi.Name()) }) {
			d.amongOthers.Store(opened)
			return
		}
	}
	writeFile(tree, layout.Readme, layout.ReadmeText)
	writeFile(tree, layout.Tag, layout.TagText)
}

// isCache reports whether there is a cache in a directory, be it among files of others.
func isCache(tree dirfs.FS) bool {
	files, err := tree.ReadDir(".")
	return err == nil && slices.ContainsFunc(files, func(fi fs.FileInfo) bool { return layout.ShowsCache(fi) })
}

// tree returns the directory; nil if it is ReadOnly and doesn't exist.
func (d *Disk) tree() dirfs.FS {
	if opened := d.opened.Load(); opened != nil {
		return *opened
	}
	return nil
}

// reopen opens the directory anew, if nobody has since gone was found to be deleted or moved,
// and makes it if need be. The garbage collector closes gone: others may be using it.
func (d *Disk) reopen(gone dirfs.FS) error {
	d.opening.Lock()
	defer d.opening.Unlock()
	if d.closed.Load() {
		return ErrClosed
	}
	if d.tree() != gone {
		return nil
	}
	if err := d.openTree(); err != nil {
		return err
	}
	d.usage.FailWalk() // nothing is known of what is there now
	return nil
}

// findMoved opens what has the directory's name by now, if that is another directory than the
// one that is open: somebody has moved it. If none has, make says to make it anew.
func (d *Disk) findMoved(make bool) error {
	tree := d.tree()
	named, err := os.Stat(d.dir)
	if err != nil {
		if make && errors.Is(err, fs.ErrNotExist) {
			if err := d.reopen(tree); tree == nil || errors.Is(err, ErrClosed) {
				return err
			}
		}
		return nil // what is open may still be there, where this process can't name it any more
	}
	if tree != nil && os.SameFile(named, d.place.Load().Info) {
		if _, err := tree.Lstat("."); err == nil {
			return nil
		} // else the file system went and came back, and only what is opened now is any use
	}
	return d.reopen(tree)
}

// Dir returns the absolute path of the store's directory.
func (d *Disk) Dir() string { return d.dir }

// Close ends background work and releases the directory. It doesn't flush.
// Artifacts that Get returned stay readable. Closing twice does nothing. If the file system
// doesn't answer for 5 seconds, Close returns an error, and goes on without the caller.
func (d *Disk) Close() error {
	if d.closed.Swap(true) {
		return nil
	}
	d.stop()
	_, err := bounded.Call(context.Background(), bounded.Limit{Wait: storeWait}, func(context.Context) (struct{}, error) {
		d.background.Wait()
		d.opening.Lock()
		defer d.opening.Unlock()
		if d.tree() == nil {
			return struct{}{}, nil
		}
		if d.counters.adds.Load() > 0 {
			d.restamp()
		}
		return struct{}{}, d.tree().Close()
	}, nil)
	if errors.Is(err, bounded.ErrNoAnswer) {
		err = d.errorOf("close", Key{}, fmt.Errorf("what is under way in it is left to itself: %w", err))
	}
	return err
}

// ready reports why an operation can't start.
func (d *Disk) ready(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if d.closed.Load() {
		return ErrClosed
	}
	return nil
}

// writable is ready for operations that a read-only store refuses.
func (d *Disk) writable(ctx context.Context) error {
	err := d.ready(ctx)
	if err == nil && d.o.ReadOnly {
		return ErrReadOnly
	}
	return err
}

// Metrics implements [Store]. Entries and Bytes are those of [Disk.Usage].
func (d *Disk) Metrics() Metrics {
	c := &d.counters
	entries, bytes, _ := d.totals()
	return Metrics{
		Lookups: c.lookups.Load(), Hits: c.hits.Load(), Misses: c.misses.Load(), Adds: c.adds.Load(), RejectedAdds: c.rejected.Load(),
		Evictions: c.evictions.Load(), EvictedBytes: c.evictedBytes.Load(), Flushes: c.flushes.Load(),
		FlushErrors: c.flushErrors.Load(), Corrupt: c.corrupt.Load(), Errors: c.errors.Load(),
		Entries: uint64(entries), Bytes: uint64(bytes),
	}
}

func (d *Disk) notify(e Event) {
	e.Layer = d.o.Name
	notify(d.o.OnEvent, e)
	if e.Kind != EventHit && e.Kind != EventMiss {
		d.watchers.Tell(e)
	}
}

// Observe implements [Observable].
func (d *Disk) Observe(observer func(Event)) (stop func()) { return d.watchers.Add(observer) }

// errorOf returns err as what an operation returns; nil is nil.
func (d *Disk) errorOf(op string, key Key, err error) error {
	if err == nil {
		return nil
	}
	if key != (Key{}) {
		err = withoutPath(err)
	}
	return &Error{Op: op, Store: "disk " + d.dir, Key: key, Err: err}
}

// withoutPath drops the path from an error of the file system, for where the key is named.
func withoutPath(err error) error {
	switch e := err.(type) {
	case *fs.PathError:
		return fmt.Errorf("%s: %w", e.Op, e.Err)
	case *os.LinkError:
		return fmt.Errorf("%s: %w", e.Op, e.Err)
	}
	return err
}

// failed counts and reports an operation that the file system failed.
func (d *Disk) failed(op string, key Key, err error) error {
	err = d.errorOf(op, key, err)
	d.counters.errors.Add(1)
	d.notify(Event{Kind: EventStoreFailed, Key: key, Err: err})
	return err
}

package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/environ"
	"github.com/modcache/modcache/internal/layout"
)

// FleetOptions configure [OpenFleet]. Of Remote, a key to verify with is needed.
type FleetOptions struct {
	Remote Options          // of the server, and whose entries are used
	Cache  modcache.Options // of the Cache, and of the directory
}

// Format implements [fmt.Formatter], so that any verb hides secrets, with the exception that [Options.Format] has.
func (o FleetOptions) Format(f fmt.State, verb rune) {
	type plain FleetOptions // without this method
	fmt.Fprintf(f, fmt.FormatString(f, verb), plain(o))
}

// Fleet is a [modcache.Cache] whose store is a directory of this machine, with a server behind it
// that a fleet shares. Its methods may be called from several goroutines at once. Close it when done.
type Fleet struct {
	*modcache.Cache
	layers *modcache.Layered
	remote *Store
	disk   *modcache.Disk // nil: memory stands in for it
}

// OpenFleet returns a Cache over a directory and a server. dir is as in [modcache.Open], with the
// same say for operators; url and Remote are as in [New]. What the directory lacks is fetched from the
// server, and kept in the directory; what is compiled is uploaded if there is a key to sign with.
//
// Neither a directory that can't be had nor a server that is down keeps a program from starting. In
// place of the directory, up to 256 MiB are kept in memory then, and what is in one that can't be written to is
// used; an EventDegraded says so. With Options.MustStore, it is an error.
func OpenFleet(dir, url string, o *FleetOptions) (*Fleet, error) {
	if o == nil {
		o = &FleetOptions{}
	}
	v := *o
	var env environ.Settings
	if dir == "" && !v.Cache.IgnoreEnv {
		env = environ.Read(os.Getenv)
		dir = env.Dir
		v.Cache.ReadOnly = v.Cache.ReadOnly || env.ReadOnly
		v.Cache.Disk.MaxBytes = cmp.Or(env.MaxBytes, v.Cache.Disk.MaxBytes)
		if err := env.Err(); err != nil {
			if v.Cache.MustStore {
				return nil, fmt.Errorf("modcache: %w", err)
			}
			v.degraded(fmt.Errorf("modcache: no use of the environment as it is: %w", err))
		}
	}
	v.Cache.Disk.ReadOnly = v.Cache.Disk.ReadOnly || v.Cache.ReadOnly
	f := &Fleet{}
	var err error
	if f.remote, err = New(url, &v.Remote); err != nil {
		return nil, err
	}
	if err := f.remote.degraded(); err != nil {
		v.degraded(err)
	}
	front := modcache.Layer{Name: "disk"}
	switch {
	case !env.Off:
		f.disk, err = v.openDisk(dir)
	case v.Cache.MustStore:
		err = errors.New("modcache: the environment says MODCACHE=off, but Options.MustStore asks for a directory")
	}
	switch {
	case f.disk != nil:
		front.Store = f.disk
		if err != nil {
			v.degraded(fmt.Errorf("modcache: no storing in the directory, which is only read: %w", err))
		}
		if err != nil || v.Cache.Disk.ReadOnly {
			front.Write = modcache.WriteNever
		}
	case err != nil && (v.Cache.MustStore || !errors.As(err, new(*modcache.Error))): // or else it is about the options
		_ = f.remote.Close()
		return nil, err
	default:
		if err != nil {
			v.degraded(fmt.Errorf("modcache: no directory to store code in, so that it is kept in memory, up to 256 MiB of it: %w", err))
		}
		front = modcache.Layer{Name: "memory", Store: modcache.NewMemory(&modcache.MemoryOptions{MaxBytes: 256 << 20})}
	}
	behind := modcache.Layer{Name: f.remote.o.Name, Store: f.remote, Timeout: -1} // it has limits of its own
	if !f.remote.write || v.Cache.ReadOnly {
		behind.Write = modcache.WriteNever
	}
	if f.disk == nil {
		v.Cache.ReadOnly = false // that is about a directory
	}
	f.layers = modcache.NewLayered(nil, front, behind)
	if f.Cache, err = modcache.New(f.layers, &v.Cache); err != nil {
		_ = f.closeStores()
		return nil, err
	}
	return f, nil
}

// openDisk opens the directory, for reading if nothing else can be had, which the error says then. It doesn't
// wait for a file system that hangs.
func (o *FleetOptions) openDisk(dir string) (d *modcache.Disk, err error) {
	if dir == "" {
		if dir, err = environ.DefaultDir(); err != nil {
			return nil, &modcache.Error{Op: "open", Store: "disk", Err: err}
		}
	}
	for _, readOnly := range []bool{o.Cache.Disk.ReadOnly, true} {
		disk := o.Cache.Disk
		disk.ReadOnly = readOnly
		d, e := bounded.Call(context.Background(), bounded.Limit{Wait: patience}, func(context.Context) (*modcache.Disk, error) {
			return modcache.OpenDisk(dir, &disk)
		}, func(late *modcache.Disk) {
			if late != nil {
				_ = late.Close()
			}
		})
		if e == nil {
			if err != nil && !hasCache(dir) { // nothing to read
				_ = d.Close()
				return nil, err
			}
			return d, err
		}
		if errors.Is(e, bounded.ErrNoAnswer) {
			e = &modcache.Error{Op: "open", Store: "disk " + dir, Err: e}
		}
		err = cmp.Or(err, e)
		if o.Cache.MustStore || errors.Is(e, bounded.ErrNoAnswer) || errors.Is(e, modcache.ErrInsecureDir) {
			break
		}
	}
	return nil, err
}

// hasCache reports whether a directory is that of a cache, whatever is in it.
func hasCache(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, layout.Tag))
	return err == nil
}

// observers is how long those of the Cache may take.
const observers = 3 * time.Second

// degraded tells the Cache's observers what happened before there was a Cache.
func (o *FleetOptions) degraded(err error) {
	for _, tell := range []func(){
		func() {
			if l := o.Cache.Logger; l != nil {
				l.Warn(modcache.EventDegraded.String(), "error", err)
			}
		},
		func() {
			if o.Cache.OnEvent != nil {
				o.Cache.OnEvent(modcache.Event{Kind: modcache.EventDegraded, Err: err})
			}
		},
	} {
		_, _ = bounded.Call(context.Background(), bounded.Limit{Wait: observers}, func(context.Context) (struct{}, error) {
			tell()
			return struct{}{}, nil
		}, nil)
	}
}

// Remote returns the store on the server, for its Report.
func (f *Fleet) Remote() *Store { return f.remote }

// Layers says what the directory and the server did; see [modcache.Layered.Layers].
func (f *Fleet) Layers() []modcache.LayerMetrics { return f.layers.Layers() }

// Close ends the Cache and its stores. Before that, it waits for uploads, until ctx ends. It returns what couldn't be
// uploaded or stored.
func (f *Fleet) Close(ctx context.Context) error {
	var flushed error
	if !f.Closed() {
		flushed = f.Flush(ctx)
	}
	err := errors.Join(flushed, f.Cache.Close(ctx), f.closeStores())
	if err != nil {
		err = &modcache.Error{Op: "close", Store: "fleet", Err: err}
	}
	return err
}

func (f *Fleet) closeStores() error {
	// After a Flush, nothing is under way in the layers but what hangs.
	_, err := bounded.Call(context.Background(), bounded.Limit{Wait: patience}, func(context.Context) (struct{}, error) {
		return struct{}{}, f.layers.Close()
	}, nil)
	if errors.Is(err, bounded.ErrNoAnswer) {
		err = &modcache.Error{Op: "close", Store: "disk", Err: fmt.Errorf("what is under way in the directory is left to itself: %w", err)}
	}
	err = errors.Join(err, f.remote.Close())
	if f.disk != nil {
		err = errors.Join(err, f.disk.Close())
	}
	return err
}

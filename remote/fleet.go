package remote

import (
	"context"
	"errors"
	"fmt"

	"github.com/modcache/modcache"
)

// FleetOptions configure [OpenFleet]. Of Remote, a key to verify with is needed.
type FleetOptions struct {
	// Backend, if set, is asked in place of what the URL would be of, which is a name for errors alone then: see [NewWithBackend]. Whoever
	// made it closes it, after the Fleet.
	Backend Backend

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
	remote *Store
}

// OpenFleet returns a Cache over a directory and a server: [modcache.Open] with the server behind the directory. dir is as there, with the
// same say for operators; url and Remote are as in [New]. What the directory lacks is fetched from the
// server, and kept in the directory; what is compiled is uploaded if there is a key to sign with.
//
// Neither a directory that can't be had nor a server that is down keeps a program from starting. What stands in for the directory, and how it
// is tried again, is as in [modcache.Open]. With Options.MustStore, it is an error.
func OpenFleet(dir, url string, o *FleetOptions) (*Fleet, error) {
	if o == nil {
		o = &FleetOptions{}
	}
	s, err := o.open(url)
	if err != nil {
		return nil, err
	}
	server := modcache.Layer{Name: s.o.Name, Store: s, Timeout: -1} // it has limits of its own
	if !s.write {
		server.Write = modcache.WriteNever
	}
	v := o.Cache
	v.Behind = append([]modcache.Layer{server}, v.Behind...)
	c, err := modcache.Open(dir, &v)
	if err != nil {
		_ = s.Close()
		return nil, err
	}
	return &Fleet{c, s}, nil
}

func (o *FleetOptions) open(url string) (*Store, error) {
	if o.Backend != nil {
		return NewWithBackend(o.Backend, url, &o.Remote)
	}
	return New(url, &o.Remote)
}

// Remote returns the store on the server, for its Report.
func (f *Fleet) Remote() *Store { return f.remote }

// Layers says what the directory, or the memory that stands in for it, and the server did; see [modcache.Layered.Layers]. When a
// directory comes late, counts begin anew. It is empty where the engine's identity can't be found out, so that the server is of no use.
func (f *Fleet) Layers() []modcache.LayerMetrics {
	if layers, ok := f.Store().(*modcache.Layered); ok {
		return layers.Layers()
	}
	return nil
}

// Close ends the Cache and its stores. Before that, it waits for uploads, until ctx ends. It returns what couldn't be
// uploaded or stored.
func (f *Fleet) Close(ctx context.Context) error {
	var flushed error
	if !f.Closed() {
		flushed = f.Flush(ctx)
	}
	err := errors.Join(flushed, f.Cache.Close(ctx), f.remote.Close())
	if err != nil {
		err = &modcache.Error{Op: "close", Store: "fleet", Err: err}
	}
	return err
}

package remote

import (
	"context"
	"io"

	"github.com/modcache/modcache"
)

// Backend moves entries to and from one kind of server, as opaque bytes. A
// [Store] does the rest: it authenticates, limits, retries and gives up. Methods
// may be called from several goroutines at once, and return soon after their
// context has ended, as does reading what Get returns. Calls that don't are left to themselves, up to
// 256 of them, and as many Puts as there may be uploads at once. But what Get returns is read by whoever asked: where reading or
// closing it doesn't return, neither does [Store.Get].
//
// Errors say what to do by what they wrap: [io/fs.ErrNotExist], there is no such
// entry; [io/fs.ErrExist], Put found one and left it; [io/fs.ErrPermission], the server
// refuses, and will the next time; [modcache.ErrTooLarge], the server takes no
// entry of that size. An error with a method RetryAfter() time.Duration
// says how long to leave the server alone. Any other error may pass.
type Backend interface {
	// Get opens the entry under key for reading from its start. A connection that is cut
	// must not look like the end of the entry.
	Get(ctx context.Context, key modcache.Key) (io.ReadCloser, error)

	// Has reports whether there is an entry under key.
	Has(ctx context.Context, key modcache.Key) (bool, error)

	// Put stores an entry. Its context ends after half a minute, and a second for each 32 KiB; to give up before, on a server that
	// takes nothing, is its own to do. Unless replace is set, it may leave an entry that is
	// there already. Readers see all of an entry or nothing.
	Put(ctx context.Context, key modcache.Key, entry []byte, replace bool) error

	// Delete drops the entry under key; it is nil if there is none.
	Delete(ctx context.Context, key modcache.Key) error
}

// Layout is a kind of HTTP server: how keys become URLs, and how requests are
// signed. Other protocols implement [Backend] and use [NewWithBackend].
type Layout interface {
	backend(w *web) (Backend, error)
	kind() string // for people and programs; see Report.Kind
}

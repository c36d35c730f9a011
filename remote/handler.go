package remote

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/sync/semaphore"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/frame"
	"github.com/modcache/modcache/internal/option"
)

// HandlerOptions configure a handler; see [NewHandler]. Zero fields mean the defaults,
// negative numbers no bound.
type HandlerOptions struct {
	// ReadTokens are the bearer tokens that allow GET and HEAD. If it is nil,
	// everybody may read; entries are signed, but not secret.
	ReadTokens []string

	// WriteTokens are the bearer tokens that allow PUT and DELETE, and reading too.
	// Without any, nobody may write.
	WriteTokens []string

	// Keyring, if it isn't the zero one, refuses entries that none of its keys has signed.
	// Clients verify entries in any case.
	Keyring Keyring

	// MaxSize is the length of the largest entry that is taken or passed on, as it is
	// transferred, and of the largest artifact that is signed. The default is 256 MiB.
	MaxSize int64

	// MaxUploads is how many entries are received at once; each is in memory until it
	// is stored. The default is 4.
	MaxUploads int

	// MaxDownloads is how many GETs are answered at once; the others get a 503, and
	// their nodes compile. A server that shares its bandwidth among too many serves
	// nobody in time. The default is 1024.
	MaxDownloads int

	// Signer, if set, serves a store that a Cache writes to, such as a
	// warmed directory: its artifacts are signed, and clients trust this key. Nobody can
	// upload to such a handler. Who asks first gets an entry as it is, signed; then
	// it is compressed in the background, and kept for all others. No artifact is
	// evicted for that: a Disk that is less than half full, by its own MaxBytes (or 2 GiB), which should be that of
	// whoever fills the directory, keeps it beside the artifacts; otherwise, and if the Disk fails, it is in memory, of which 256 MiB are used.
	Signer *PrivateKey

	// Logger, if set, gets each request as information, and what failed as a warning. It never
	// gets a token. If it doesn't return for 3 seconds, it gets nothing for a minute, or until it has.
	Logger *slog.Logger
}

// Format implements [fmt.Formatter]: it hides the tokens, with the exception that [Options.Format] has.
func (o HandlerOptions) Format(f fmt.State, verb rune) {
	fmt.Fprintf(f, fmt.FormatString(f, verb), o.hidden())
}

// MarshalJSON implements [json.Marshaler]: it hides the tokens.
func (o HandlerOptions) MarshalJSON() ([]byte, error) { return json.Marshal(o.hidden()) }

func (o HandlerOptions) hidden() any {
	type plain HandlerOptions // without these methods
	o.ReadTokens = slices.Repeat([]string{"hidden"}, len(o.ReadTokens))
	o.WriteTokens = slices.Repeat([]string{"hidden"}, len(o.WriteTokens))
	return plain(o)
}

// Handler is the server side of a [Store]; see [NewHandler]. Close it when done.
type Handler struct {
	store       modcache.Store
	read, write [][sha256.Size]byte // hashes of tokens
	trusted     []frame.Auth
	max         int64
	uploads     *semaphore.Weighted // entries that are received
	downloads   *semaphore.Weighted // entries that are sent
	signing     *signing            // nil: the store holds entries
	proven      recent              // entries that were verified to their end, by their headers
	reads       *bounded.Lane       // of the store
	writes      *bounded.Lane
	reports     *bounded.Lane
	log         *slog.Logger
	logs        *bounded.Lane // of log
	unpaced     sync.Once     // that clients can't be cut off was logged
	counters    handlerCounters
}

// NewHandler returns the server side of a [Store] with the [Plain] or [BazelAC]
// layout, for small fleets. It answers GET, also for ranges and conditional, HEAD, PUT,
// also if nothing is there, and DELETE on any path that ends in a key; besides, it answers GET on
// paths that end in healthz, and in metrics, with [Handler.WriteMetrics].
//
// Unless there is a Signer, the store holds entries as clients have signed
// them, so that the server needs no keys and can't forge any. Use that store for nothing else: what a
// Cache looks for isn't in it. What stands before the key in a path doesn't count: signers who don't trust each other need a
// handler each, with a store of its own, or they replace each other's entries. A client from which nothing comes for 5 seconds, or which takes nothing for a
// minute, is cut off, as is one that needs more than half a minute and then a second for each
// 32 KiB. With HTTP/2, where transfers wait for each other in a connection, uploads have 32 seconds more for both. Other timeouts are those of the http.Server. Middleware whose ResponseWriter has no method Unwrap hides
// the connection, as [http.ResponseController] says: then nobody is cut off but by the server's own
// ReadTimeout and WriteTimeout, and a warning says so, once.
//
// A store that doesn't answer within 5 seconds, or 30 for a PUT or DELETE, is left alone for a minute, unless it
// answers before; requests get a 503. Whatever clients do, at most 256 reads hang in it, MaxUploads changes, and
// MaxDownloads requests whose file the kernel was about to send. A [modcache.Layered] is one store: while a file of one of its
// layers hangs, what others have isn't served either.
func NewHandler(s modcache.Store, o *HandlerOptions) (*Handler, error) {
	if s == nil {
		return nil, errors.New("modcache: NewHandler needs a Store")
	}
	v, err := o.validate()
	if err != nil {
		return nil, err
	}
	h := &Handler{
		store:     s,
		read:      hashTokens(v.ReadTokens),
		write:     hashTokens(v.WriteTokens),
		max:       v.MaxSize,
		uploads:   semaphore.NewWeighted(int64(v.MaxUploads)),
		downloads: semaphore.NewWeighted(int64(v.MaxDownloads)),
		proven:    recent{ttl: provenFor},
		reads:     bounded.NewLane(maxReads),
		writes:    bounded.NewLane(int64(v.MaxUploads)), // each holds an entry in memory
		reports:   bounded.NewLane(4),
		log:       v.Logger,
		logs:      bounded.NewLane(64),
	}
	if v.Keyring.Keys != nil || v.Keyring.Revoked != nil {
		if h.trusted, err = v.Keyring.trusted(); err != nil {
			return nil, err
		}
		if len(h.trusted) == 0 {
			return nil, errors.New("modcache: HandlerOptions.Keyring trusts no key: add one, or leave the Keyring out")
		}
	}
	if v.Signer != nil {
		h.signing = newSigning(s, h.reads, v.Signer, v.MaxSize)
	}
	return h, nil
}

// validate returns a copy with the defaults filled in. In it, what has no bound is huge.
func (o *HandlerOptions) validate() (v HandlerOptions, err error) {
	if o != nil {
		v = *o
	}
	v.MaxSize = option.Number(v.MaxSize, 256<<20, frame.MaxSize)
	v.MaxUploads = option.Number(v.MaxUploads, 4, math.MaxInt)
	v.MaxDownloads = option.Number(v.MaxDownloads, 1024, math.MaxInt)
	switch {
	case slices.Contains(v.ReadTokens, ""), slices.Contains(v.WriteTokens, ""):
		return v, errors.New("modcache: HandlerOptions holds an empty token")
	case slices.ContainsFunc(slices.Concat(v.ReadTokens, v.WriteTokens), unsendable):
		return v, errors.New("modcache: HandlerOptions holds a token that no client can send: it has a space at an end, a control character, or the byte order mark of a text file in it")
	case v.ReadTokens != nil && len(v.ReadTokens) == 0:
		return v, errors.New("modcache: HandlerOptions.ReadTokens is empty, and would let everybody read: name a token, or leave it nil")
	case v.Signer != nil && v.Signer.zero():
		return v, errors.New("modcache: HandlerOptions.Signer is a zero PrivateKey")
	case v.Signer != nil && len(v.WriteTokens) > 0:
		return v, errors.New("modcache: HandlerOptions.Signer makes a handler read-only, and excludes WriteTokens")
	}
	return v, nil
}

// Close waits for what the handler does in the background, which ends soon. Requests are the
// http.Server's to end, before. Closing again does nothing. A store that hangs is waited for for 5 seconds; then
// it is an error, and that work is left to itself.
func (h *Handler) Close() error {
	if h.signing == nil {
		return nil
	}
	_, err := bounded.Call(context.Background(), bounded.Limit{Wait: patience}, func(context.Context) (struct{}, error) {
		h.signing.close()
		return struct{}{}, nil
	}, nil)
	if err != nil {
		err = &modcache.Error{Op: "close", Store: "handler", Err: fmt.Errorf("an entry is still being signed: %w", err)}
	}
	return err
}

// ServeHTTP implements [http.Handler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := &recorder{ResponseWriter: w}
	defer h.record(rec, r, time.Now()) // also of who is cut off by a panic
	if rec.err = h.serve(rec, r); rec.err == nil {
		return
	}
	no := refusalOf(rec.err)
	if rec.status != 0 {
		return // the head was sent, and the server cuts what is too short
	}
	if no.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	w.Header().Set("Cache-Control", "no-store") // what isn't here may be, soon, and caches in between may keep a 404
	http.Error(rec, no.why, no.status)
}

func (h *Handler) serve(w *recorder, r *http.Request) error {
	reading := r.Method == http.MethodGet || r.Method == http.MethodHead
	name := path.Base(r.URL.Path)
	if reading && name == "healthz" {
		return h.health(w, r)
	}
	if !h.allowed(r) {
		w.Header().Set("WWW-Authenticate", "Bearer")
		return refuse(http.StatusUnauthorized, "a bearer token is needed that allows %s", r.Method)
	}
	if reading && name == "metrics" {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		return h.WriteMetrics(w)
	}
	key, err := modcache.ParseKey(name)
	switch {
	case err != nil:
		return refuse(http.StatusNotFound, "no key at the end of the path")
	case reading:
		return h.get(w, r, key)
	case len(h.write) == 0:
		w.Header().Set("Allow", "GET, HEAD")
		return refuse(http.StatusMethodNotAllowed, "nobody can write to this server")
	case r.Method == http.MethodPut:
		if err = h.put(w, r, key); err == nil {
			w.WriteHeader(http.StatusCreated)
		}
	case r.Method == http.MethodDelete:
		err = h.change(r.Context(), func(ctx context.Context) error { return h.store.Delete(ctx, key) })
		if err == nil {
			w.WriteHeader(http.StatusNoContent)
		}
	default:
		w.Header().Set("Allow", "GET, HEAD, PUT, DELETE")
		return refuse(http.StatusMethodNotAllowed, "%s is not for entries", r.Method)
	}
	return err
}

// refusal is an answer that isn't a success. Clients show why to people.
type refusal struct {
	status int
	why    string
}

func (r *refusal) Error() string { return r.why }

func refuse(status int, format string, args ...any) error {
	return &refusal{status, fmt.Sprintf(format, args...)}
}

// refusalOf returns what to answer. What is wrong with the store is for the log alone.
func refusalOf(err error) *refusal {
	var no *refusal
	status := http.StatusInternalServerError
	switch {
	case errors.As(err, &no):
		return no
	case hangs(err):
		return &refusal{http.StatusServiceUnavailable, "the store doesn't answer"}
	case errors.Is(err, modcache.ErrTooLarge):
		status = http.StatusRequestEntityTooLarge
	case errors.Is(err, modcache.ErrReadOnly):
		status = http.StatusMethodNotAllowed
	}
	return &refusal{status, http.StatusText(status)}
}

// allowed checks the bearer token.
func (h *Handler) allowed(r *http.Request) bool {
	reading := r.Method == http.MethodGet || r.Method == http.MethodHead
	if reading && len(h.read) == 0 || !reading && len(h.write) == 0 {
		return true // anybody may read, or be told that nobody may write
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return false
	}
	return contains(h.write, token) || reading && contains(h.read, token)
}

// unsendable reports whether no Authorization header can have the token, or none that people see the same in.
func unsendable(token string) bool {
	return strings.TrimSpace(token) != token || strings.ContainsFunc(token, func(r rune) bool { return unicode.IsControl(r) || r == '\ufeff' })
}

func hashTokens(tokens []string) (hashes [][sha256.Size]byte) {
	for _, t := range tokens {
		hashes = append(hashes, sha256.Sum256([]byte(t)))
	}
	return hashes
}

// contains takes the same time wherever a token differs.
func contains(hashes [][sha256.Size]byte, token string) bool {
	sum := sha256.Sum256([]byte(token))
	found := 0
	for _, h := range hashes {
		found |= subtle.ConstantTimeCompare(h[:], sum[:])
	}
	return found == 1
}

func (h *Handler) put(w *recorder, r *http.Request, key modcache.Key) error {
	if r.ContentLength > h.max {
		return refuse(http.StatusRequestEntityTooLarge, "an entry of %d bytes, at most %d are taken", r.ContentLength, h.max)
	}
	if r.Header.Get("If-None-Match") == "*" {
		there, err := h.has(r.Context(), key)
		if err != nil {
			return err
		}
		if there {
			return refuse(http.StatusPreconditionFailed, "the entry is here")
		}
	}
	if !h.uploads.TryAcquire(1) {
		return refuse(http.StatusServiceUnavailable, "too many uploads at once")
	}
	defer h.uploads.Release(1)
	p := newPace(h.deadline(http.NewResponseController(w).SetReadDeadline), sendsNothing, serverOf(r).ReadTimeout, ahead(r))
	b, err := readBody(pacedReader{p, http.MaxBytesReader(w, r.Body, h.max)}, r.ContentLength)
	h.counters.received.Add(uint64(len(b)))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return refuse(http.StatusRequestEntityTooLarge, "more than %d bytes", h.max)
	case errors.Is(err, os.ErrDeadlineExceeded):
		// The deadline stays, so that the server doesn't wait for the rest either.
		w.Header().Set("Connection", "close")
		return refuse(http.StatusRequestTimeout, "the upload has stalled, or is too slow")
	case err != nil:
		return refuse(http.StatusBadRequest, "the upload was cut off")
	}
	p.done()
	outline, err := h.check(b, key)
	if err != nil {
		return err
	}
	info := frame.InfoOf[modcache.Info](outline.Meta)
	info.Engine = frame.EntryEngine
	return h.change(r.Context(), func(ctx context.Context) error {
		return replace(ctx, h.store, key, modcache.NewArtifact(b, info))
	})
}

// replace is an Add that doesn't leave what is there, which may be what a client has found damaged.
func replace(ctx context.Context, s modcache.Store, key modcache.Key, a *modcache.Artifact) error {
	if r, ok := s.(modcache.Replacer); ok {
		return r.Replace(ctx, key, a)
	}
	if err := s.Delete(ctx, key); err != nil {
		return err
	}
	return s.Add(ctx, key, a)
}

// check accepts an entry that is whole, has the right key, and signer if that matters.
func (h *Handler) check(b frame.Bytes, key modcache.Key) (*frame.Outline, error) {
	outline, err := frame.Inspect(b, int64(len(b)))
	if err == nil {
		err = outline.CheckChunks(b)
	}
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%v", err)
	}
	if outline.Key != key {
		return nil, refuse(http.StatusBadRequest, "the entry is of key %x", outline.Key)
	}
	if h.trusted != nil {
		if _, err := frame.Open(b, int64(len(b)), key, &frame.Options{Trusted: h.trusted}); err != nil {
			return nil, refuse(http.StatusForbidden, "%v", err)
		}
	}
	return outline, nil
}

func (h *Handler) has(ctx context.Context, key modcache.Key) (bool, error) {
	a, err := h.find(ctx, key)
	h.release(a)
	return a != nil, err
}

// find returns what is there for clients, or nil. If nobody signs it here, what programs have stored isn't for clients, and uploads take
// its place.
func (h *Handler) find(ctx context.Context, key modcache.Key) (*modcache.Artifact, error) {
	a, err := find(ctx, h.reads, h.store, key)
	if a != nil && (a.Info().Engine == frame.EntryEngine) == (h.signing != nil) {
		h.release(a)
		return nil, err
	}
	return a, err
}

// readBody reads a request of n bytes; n < 0 if the client didn't say. What is
// allocated follows what has arrived, and is as long as what is returned, which the store may keep.
func readBody(body io.Reader, n int64) ([]byte, error) {
	var begun bytes.Buffer
	if n < 0 {
		_, err := begun.ReadFrom(body)
		return bytes.Clone(begun.Bytes()), err
	}
	if got, err := io.CopyN(&begun, body, n/2); err != nil {
		return begun.Bytes()[:got], err
	}
	b := make([]byte, n)
	got := copy(b, begun.Bytes())
	more, err := io.ReadFull(body, b[got:])
	return b[:got+more], err
}

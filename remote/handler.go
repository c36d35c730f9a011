package remote

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/zeebo/blake3"
	"golang.org/x/sync/semaphore"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/frame"
	"github.com/modcache/modcache/internal/option"
)

// HandlerOptions configure a handler; see [NewHandler]. Zero fields mean the defaults,
// negative numbers no bound.
type HandlerOptions struct {
	// ReadTokens are the bearer tokens that allow GET and HEAD. Without any,
	// everybody may read; entries are signed, but not secret.
	ReadTokens []string

	// WriteTokens are the bearer tokens that allow PUT and DELETE, and reading too.
	// Without any, nobody may write.
	WriteTokens []string

	// Keyring, if it holds keys, refuses entries that none of them has signed.
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
	// nobody in time. The default is no bound.
	MaxDownloads int

	// Signer, if set, serves a store that a Cache writes to, such as a
	// warmed directory: its artifacts are compressed and signed for each request,
	// MaxUploads at once, and clients trust this key. Such a handler is read-only.
	Signer *PrivateKey
}

// Format implements [fmt.Formatter]: it hides the tokens.
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

// NewHandler returns the server side of a [Store] with the [Plain] or [BazelAC]
// layout, for small fleets. It answers GET, also for ranges and conditional, HEAD, PUT,
// also if nothing is there, and DELETE on any path that ends in a key.
//
// Unless there is a Signer, the store holds entries as clients have signed
// them, so that the server needs no keys and can't forge any; such a store can't be used by
// a Cache. A client from which nothing comes for 5 seconds, or which takes nothing for as
// long, is cut off, as is one that needs more than half a minute and then a second for each
// 32 KiB. Other timeouts are those of the http.Server.
func NewHandler(s modcache.Store, o *HandlerOptions) (http.Handler, error) {
	if s == nil {
		return nil, errors.New("modcache: NewHandler needs a Store")
	}
	v, err := o.validate()
	if err != nil {
		return nil, err
	}
	h := &handler{
		store:     s,
		read:      hashTokens(v.ReadTokens),
		write:     hashTokens(v.WriteTokens),
		max:       v.MaxSize,
		stall:     stalledAfter,
		uploads:   semaphore.NewWeighted(int64(v.MaxUploads)),
		downloads: semaphore.NewWeighted(int64(v.MaxDownloads)),
	}
	if len(v.Keyring.Keys) > 0 {
		_, trusted, err := (&Options{Keyring: v.Keyring}).auth()
		if err != nil {
			return nil, err
		}
		h.trusted = trusted
	}
	if v.Signer != nil {
		h.sign = &frame.Options{Auth: frame.NewSigner(v.Signer.key()), Compressor: frame.NewCompressor(), Compress: true}
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
	v.MaxDownloads = option.Number(v.MaxDownloads, math.MaxInt, math.MaxInt)
	switch {
	case slices.Contains(v.ReadTokens, ""), slices.Contains(v.WriteTokens, ""):
		return v, errors.New("modcache: HandlerOptions holds an empty token")
	case v.Signer != nil && v.Signer.zero():
		return v, errors.New("modcache: HandlerOptions.Signer is a zero PrivateKey")
	case v.Signer != nil && len(v.WriteTokens) > 0:
		return v, errors.New("modcache: HandlerOptions.Signer makes a handler read-only, and excludes WriteTokens")
	}
	return v, nil
}

// entryEngine marks artifacts that are entries as they were received, so that
// no Cache takes them for machine code.
const entryEngine = "modcache remote entry"

type handler struct {
	store       modcache.Store
	read, write [][sha256.Size]byte // hashes of tokens
	trusted     []frame.Auth
	max         int64
	stall       time.Duration
	uploads     *semaphore.Weighted // entries that are received, or signed
	downloads   *semaphore.Weighted // entries that are sent
	sign        *frame.Options      // nil: the store holds entries
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key, err := modcache.ParseKey(path.Base(r.URL.Path))
	var status int
	switch {
	case !h.allowed(r):
		w.Header().Set("WWW-Authenticate", "Bearer")
		status = http.StatusUnauthorized
	case err != nil:
		status = http.StatusNotFound
	case r.Method == http.MethodGet, r.Method == http.MethodHead:
		status, err = h.get(w, r, key)
	case len(h.write) == 0:
		w.Header().Set("Allow", "GET, HEAD")
		status = http.StatusMethodNotAllowed
	case r.Method == http.MethodPut:
		status, err = h.put(w, r, key)
	case r.Method == http.MethodDelete:
		status, err = http.StatusNoContent, h.store.Delete(r.Context(), key)
	default:
		w.Header().Set("Allow", "GET, HEAD, PUT, DELETE")
		status = http.StatusMethodNotAllowed
	}
	if err != nil && status < 400 {
		status = statusOf(err)
	}
	switch {
	case status == 0: // written already
	case status < 400:
		w.WriteHeader(status)
	default:
		if status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "1")
		}
		http.Error(w, http.StatusText(status), status)
	}
}

func statusOf(err error) int {
	switch {
	case errors.Is(err, modcache.ErrTooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, modcache.ErrReadOnly):
		return http.StatusMethodNotAllowed
	}
	return http.StatusInternalServerError
}

// allowed checks the bearer token.
func (h *handler) allowed(r *http.Request) bool {
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

func (h *handler) get(w http.ResponseWriter, r *http.Request, key modcache.Key) (int, error) {
	if r.Method == http.MethodGet {
		if !h.downloads.TryAcquire(1) {
			return http.StatusServiceUnavailable, nil
		}
		defer h.downloads.Release(1)
	}
	a, ok, err := h.store.Get(r.Context(), key)
	if err != nil {
		return 0, cmp.Or(r.Context().Err(), err)
	}
	if !ok {
		return http.StatusNotFound, nil
	}
	defer a.Close()
	var entry io.ReaderAt = a
	size := a.Size()
	if stored := a.Info().Engine == entryEngine; stored == (h.sign != nil) {
		return http.StatusNotFound, nil // this store is of the other kind
	}
	if size > h.max {
		return 0, modcache.ErrTooLarge
	}
	if h.sign != nil {
		if h.uploads.Acquire(r.Context(), 1) != nil {
			return http.StatusServiceUnavailable, nil
		}
		defer h.uploads.Release(1)
		b, err := h.signed(key, a)
		if err != nil {
			return 0, err
		}
		entry, size = bytes.NewReader(b), int64(len(b))
	}
	outline, err := frame.Inspect(entry, size)
	if err != nil {
		return 0, err
	}
	sum := blake3.Sum256(outline.Header)
	w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:16])+`"`)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	p := newPace(http.NewResponseController(w).SetWriteDeadline, h.stall, serverOf(r).WriteTimeout)
	defer p.done()
	http.ServeContent(pacedWriter{p, w}, r, "", time.Time{}, io.NewSectionReader(entry, 0, size))
	return 0, nil
}

// signed encodes an artifact. The result is the same each time, so that ranges fit
// together.
func (h *handler) signed(key modcache.Key, a *modcache.Artifact) ([]byte, error) {
	var buf bytes.Buffer
	_, err := frame.Write(&buf, a, a.Size(), frame.MetaOf(key, a.Info()), h.sign)
	return buf.Bytes(), err
}

func (h *handler) put(w http.ResponseWriter, r *http.Request, key modcache.Key) (int, error) {
	if r.ContentLength > h.max {
		return http.StatusRequestEntityTooLarge, nil
	}
	if r.Header.Get("If-None-Match") == "*" {
		if there, err := h.has(r.Context(), key); there || err != nil {
			return http.StatusPreconditionFailed, err
		}
	}
	if !h.uploads.TryAcquire(1) {
		return http.StatusServiceUnavailable, nil
	}
	defer h.uploads.Release(1)
	p := newPace(http.NewResponseController(w).SetReadDeadline, h.stall, serverOf(r).ReadTimeout)
	b, err := readBody(pacedReader{p, http.MaxBytesReader(w, r.Body, h.max)}, r.ContentLength)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		// The deadline stays, so that the server doesn't wait for the rest either.
		w.Header().Set("Connection", "close")
		return http.StatusRequestTimeout, nil
	case err != nil:
		return http.StatusBadRequest, nil
	}
	p.done()
	outline, err := h.check(b, key)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return 0, nil
	}
	// An Add leaves what is there, which may be what the client has found damaged.
	if err := h.store.Delete(r.Context(), key); err != nil {
		return 0, err
	}
	info := frame.InfoOf[modcache.Info](outline.Meta)
	info.Engine = entryEngine
	if err := h.store.Add(r.Context(), key, modcache.NewArtifact(b, info)); err != nil {
		return 0, err
	}
	return http.StatusCreated, nil
}

// check accepts an entry that has the right shape and key, and signer if that matters.
func (h *handler) check(b []byte, key modcache.Key) (*frame.Outline, error) {
	outline, err := frame.Inspect(frame.Bytes(b), int64(len(b)))
	if err != nil {
		return nil, err
	}
	if outline.Key != key {
		return nil, fmt.Errorf("the entry is of key %x", outline.Key)
	}
	if h.trusted != nil {
		if _, err := frame.Open(frame.Bytes(b), int64(len(b)), key, &frame.Options{Trusted: h.trusted}); err != nil {
			return nil, err
		}
	}
	return outline, nil
}

func (h *handler) has(ctx context.Context, key modcache.Key) (bool, error) {
	a, ok, err := h.store.Get(ctx, key)
	if ok {
		_ = a.Close()
	}
	return ok, err
}

// readBody reads a request of n bytes; n < 0 if the client didn't say. What is
// allocated follows what has arrived.
func readBody(body io.Reader, n int64) ([]byte, error) {
	var buf bytes.Buffer
	if n > 0 {
		buf.Grow(int(min(n, 1<<20)) + bytes.MinRead)
	}
	_, err := buf.ReadFrom(body)
	return buf.Bytes(), err
}

package remote_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/frame"
	"github.com/modcache/modcache/remote"
)

// endless answers with a body that never ends, piece by piece, or with nothing after the first.
func endless(status int, kind string, piece []byte, hang bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		for {
			if _, err := w.Write(piece); err != nil || r.Context().Err() != nil {
				return
			}
			if hang {
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
				return
			}
		}
	}
}

// TestStoreErrorsThatNeverEnd reads a little of what a server says, for a little while, whatever it says
// and to whatever it says it.
func TestStoreErrorsThatNeverEnd(t *testing.T) {
	pieces := map[string][]byte{
		"text/plain":      []byte(strings.Repeat("why? ", 1000)),
		"application/xml": []byte("<Error><Code>" + strings.Repeat("<Message>", 1000)),
		"text/html":       bytes.Repeat([]byte{0, 0x1b, 0xff, '\n'}, 1000),
	}
	kinds := map[string]string{"text": "text/plain", "XML": "application/xml", "binary": "text/html", "binary called text": "text/plain"}
	for name, kind := range kinds {
		for _, status := range []int{403, 417, 500} {
			for _, hang := range []bool{false, true} {
				t.Run(fmt.Sprint(name, " ", status, " ", hang), func(t *testing.T) {
					t.Parallel()
					piece := pieces[kind]
					if name == "binary called text" {
						piece = pieces["text/html"]
					}
					srv := script(t, answer(404, ""), endless(status, kind, piece, hang))
					// Its limits are endless too.
					s := open(t, srv.URL, patient(remote.Options{Signer: generate(t), Retries: -1, Pause: -1}))
					require.NoError(t, add(t, s, key(1), 1000))
					err := s.Flush(t.Context())
					require.ErrorContains(t, err, fmt.Sprint("status ", status))
					require.Less(t, len(err.Error()), 600)
					_, _, err = s.Get(t.Context(), key(2))
					require.ErrorContains(t, err, fmt.Sprint("status ", status))
					require.Len(t, srv.methods(), 3)
					srv.CloseClientConnections()
				})
			}
		}
	}
}

// TestStoreExpectationInCircles asks a server twice that is never content.
func TestStoreExpectationInCircles(t *testing.T) {
	random := make([]byte, 3<<20)
	for i, x := 0, uint32(1); i < len(random); i++ {
		x = x*1664525 + 1013904223
		random[i] = byte(x >> 24)
	}
	srv := script(t, answer(404, ""), answer(417, ""))
	s := open(t, srv.URL, patient(remote.Options{Signer: generate(t), Retries: -1}))
	require.NoError(t, s.Add(t.Context(), key(1), newArtifact(random)))
	require.ErrorContains(t, s.Flush(t.Context()), "status 417")
	require.Equal(t, []string{"HEAD", "PUT", "PUT"}, srv.methods())
}

// TestStoreUploadsInCircles follows a redirect of an upload to itself for a while.
func TestStoreUploadsInCircles(t *testing.T) {
	for name, layout := range map[string]remote.Layout{
		"plain": nil, "S3": remote.S3{Bucket: "bucket", PathStyle: true, Credentials: static("a", "b", "")},
	} {
		srv := script(t, answer(404, ""), func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		})
		s := open(t, srv.URL, patient(remote.Options{Signer: generate(t), Layout: layout, Retries: -1}))
		require.NoError(t, add(t, s, key(1), 1000))
		require.ErrorContains(t, s.Flush(t.Context()), "redirects", name)
		require.Len(t, srv.methods(), 1+6, name)
	}
}

// TestS3ClocksThatLie signs each request at most twice, whatever time it is for the server, and gets on with
// one that has come to its senses.
func TestS3ClocksThatLie(t *testing.T) {
	signer := generate(t)
	b := entry(t, remote.Options{Signer: signer}, key(1), 1000)
	dates := []string{
		"Mon, 01 Jan 0001 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "Thu, 01 Jan 1970 00:00:00 GMT",
		"yesterday", "", "Fri, 31 Dec 99999 23:59:59 GMT", strings.Repeat("9", 10_000),
	}
	n := 0
	srv := script(t, func(w http.ResponseWriter, r *http.Request) {
		if n < len(dates)*2 {
			answer(403, "", "Date", dates[n%len(dates)])(w, r)
			n++
			return
		}
		at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
		if err != nil || time.Since(at).Abs() > time.Minute {
			answer(403, "", "Date", time.Now().UTC().Format(http.TimeFormat))(w, r)
			return
		}
		_, _ = w.Write(b)
	})
	s := open(t, srv.URL, patient(remote.Options{
		Signer: signer, Layout: remote.S3{Bucket: "bucket", PathStyle: true, Credentials: static("a", "b", "")}, Pause: -1,
	}))
	for lookups := 1; ; lookups++ {
		a, _, err := s.Get(t.Context(), key(1))
		require.LessOrEqual(t, len(srv.methods()), 2*lookups)
		if a != nil {
			require.NoError(t, a.Close())
			break
		}
		require.ErrorContains(t, err, "403")
		require.LessOrEqual(t, lookups, len(dates)*2+1)
	}
}

// TestStoreAllocatesWhatArrives meets a signed entry of which little more than the head ever comes.
func TestStoreAllocatesWhatArrives(t *testing.T) {
	o := remote.Options{Signer: generate(t)}
	b := entryOf(t, o, key(1), make([]byte, 64<<20), info)
	outline, err := frame.Inspect(frame.Bytes(b), int64(len(b)))
	require.NoError(t, err)
	srv := script(t, func(w http.ResponseWriter, _ *http.Request) {
		raw(w, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(b), b[:len(outline.Header)+10]))
	})
	s := open(t, srv.URL, patient(remote.Options{Signer: o.Signer, Pause: -1}))
	lookup := func() uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, err := s.Get(t.Context(), key(1))
		runtime.ReadMemStats(&after)
		require.Error(t, err)
		return after.TotalAlloc - before.TotalAlloc
	}
	lookup()
	require.Less(t, lookup(), uint64(4<<20))
	srv.Config.Handler = answer(200, string(b))
	require.NotNil(t, get(t, s, key(1)))
}

// TestHandlerKeptEntriesThatLie has somebody else put entries where a server keeps those that it has signed.
func TestHandlerKeptEntriesThatLie(t *testing.T) {
	signer, stranger := generate(t), generate(t)
	want := code(300_000)
	good := entryOf(t, remote.Options{Signer: signer}, key(1), want, info)
	about := info
	about.Name = "another"
	flipped := bytes.Clone(good)
	flipped[100] ^= 1
	for name, b := range map[string][]byte{
		"signed by a stranger": entryOf(t, remote.Options{Signer: stranger}, key(1), want, info),
		"flipped":              flipped,
		"of another key":       entryOf(t, remote.Options{Signer: signer}, key(2), want, info),
		"of another module":    entryOf(t, remote.Options{Signer: signer}, key(1), want, about),
		"of another length":    entryOf(t, remote.Options{Signer: signer}, key(1), want[1:], info),
		"short":                good[:len(good)-1],
		"long":                 append(bytes.Clone(good), 0),
		"no entry":             []byte("<html>"),
		"empty":                {},
	} {
		t.Run(name, func(t *testing.T) {
			store := openDisk(t, t.TempDir(), nil)
			require.NoError(t, store.Add(t.Context(), key(1), newArtifact(want)))
			first := newHandler(t, store, &remote.HandlerOptions{Signer: signer})
			require.Equal(t, 200, status(t, first, "GET", "/"+key(1).String(), nil))
			signedOnce(t, first, 1)
			kept := info
			kept.Engine = frame.EntryEngine
			for e, err := range store.Walk(t.Context()) {
				require.NoError(t, err)
				if e.Key != key(1) {
					require.NoError(t, store.Replace(t.Context(), e.Key, modcache.NewArtifact(b, kept)))
				}
			}
			h := newHandler(t, store, &remote.HandlerOptions{Signer: signer})
			f := newFake()
			s := over(t, f, *patient(remote.Options{Keyring: remote.Keyring{Keys: []remote.PublicKey{signer.Public()}}}))
			defer s.Close()
			for range 2 {
				f.entries[key(1)] = content(t, request(t, h, "GET", "/"+key(1).String(), nil))
				a := get(t, s, key(1))
				require.NotNil(t, a)
				got, err := a.Bytes()
				require.NoError(t, err)
				require.True(t, bytes.Equal(want, got))
				signedOnce(t, h, 1)
			}
			require.Less(t, len(f.entries[key(1)]), len(want), "made anew")
			require.Equal(t, 2, store.Usage().Entries)
		})
	}
}

// TestStoreOfCallsThatHang has a Backend, and a function for credentials, ignore their context. A lookup takes a tenth of a second longer for that, what
// hangs is bounded, and Close says that it hangs.
func TestStoreOfCallsThatHang(t *testing.T) {
	signer := generate(t)
	for name, over := range map[string]func(t *testing.T, wait func(), o remote.Options) *remote.Store{
		"a backend": func(t *testing.T, wait func(), o remote.Options) *remote.Store {
			f := newFake()
			f.get = func(context.Context, modcache.Key) (io.ReadCloser, error) {
				wait()
				return io.NopCloser(strings.NewReader("late")), nil
			}
			f.has = func(context.Context, modcache.Key) (bool, error) { wait(); return false, nil }
			return over(t, f, o)
		},
		"credentials": func(t *testing.T, wait func(), o remote.Options) *remote.Store {
			o.Layout = remote.S3{Bucket: "fleet", Credentials: func(context.Context) (remote.Credentials, error) {
				wait()
				return remote.Credentials{}, errors.New("none")
			}}
			s, err := remote.New("http://127.0.0.1:1", &o)
			require.NoError(t, err)
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				answer := make(chan bool)
				var hang atomic.Int64
				s := over(t, func() { hang.Add(1); <-answer }, remote.Options{Signer: signer, Pause: -1})
				for i := range 300 {
					d := took(func() {
						_, ok, err := s.Get(context.Background(), key(byte(i)))
						require.False(t, ok)
						require.ErrorIs(t, err, context.DeadlineExceeded)
					})
					require.Equal(t, 350*ms, d)
				}
				require.EqualValues(t, 256, hang.Load())
				d := took(func() { require.ErrorIs(t, s.Delete(context.Background(), key(1)), context.DeadlineExceeded) })
				require.Equal(t, 350*ms, d)
				require.NoError(t, s.Add(t.Context(), key(1), newArtifact(nil)))
				require.Equal(t, 5*time.Second+100*ms, took(func() { require.ErrorContains(t, s.Close(), "requests that hang are left to themselves") }))
				close(answer)
				synctest.Wait()
				require.NoError(t, s.Close())
			})
		})
	}
}

// TestStoreOfUploadsThatHang bounds how many hang, since each has an entry in memory.
func TestStoreOfUploadsThatHang(t *testing.T) {
	signer := generate(t)
	synctest.Test(t, func(t *testing.T) {
		answer := make(chan bool)
		var hang atomic.Int64
		f := newFake()
		f.put = func(context.Context, modcache.Key, []byte, bool) error {
			hang.Add(1)
			<-answer
			return nil
		}
		s := over(t, f, remote.Options{Signer: signer, Uploads: 3, Retries: -1, Pause: -1})
		for i := range 10 {
			require.NoError(t, s.Add(t.Context(), key(byte(i)), newArtifact(nil)))
		}
		require.ErrorIs(t, s.Flush(t.Context()), context.DeadlineExceeded)
		require.EqualValues(t, 3, hang.Load())
		require.Error(t, s.Close())
		close(answer)
	})
}

// TestFleetOfCallsThatHang closes as soon as a Cache over a directory that hangs.
func TestFleetOfCallsThatHang(t *testing.T) {
	signer, dir := generate(t), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		answer := make(chan bool)
		f, err := remote.OpenFleet(dir, "http://127.0.0.1:1", &remote.FleetOptions{Remote: remote.Options{Signer: signer, Layout: remote.S3{
			Bucket: "fleet", Credentials: func(context.Context) (remote.Credentials, error) {
				<-answer
				return remote.Credentials{}, errors.New("none")
			},
		}}})
		require.NoError(t, err)
		require.NoError(t, f.Remote().Add(t.Context(), key(1), newArtifact(nil)))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.Equal(t, 6*time.Second+100*ms, took(func() { err = f.Close(ctx) }))
		require.Regexp(t, `^modcache: fleet: close: .*; .*requests that hang are left to themselves`, err.Error())
		require.NotContains(t, err.Error(), "\n", "one line for all that failed")
		require.IsType(t, &modcache.Error{}, err)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		close(answer)
	})
}

// TestStoreHidesQueries has a Backend quote URLs with signatures in its errors, as those do that package net/http helps.
func TestStoreHidesQueries(t *testing.T) {
	const to = "https://storage.example/a/b?sig=SECRET&X-Amz-Signature=SECRET"
	for name, err := range map[string]error{
		"refused":  &url.Error{Op: "Get", URL: to, Err: &net.OpError{Op: "dial", Err: errors.New("refused")}},
		"a status": fmt.Errorf("GET %q: response status code 403", to),
		"in text":  fmt.Errorf("once %s: and again <%s>, EOF", to, to),
		"quotes":   fmt.Errorf("GET %q: 403", `https://storage.example/a/b?a="SECRET"&b=`+"SECRET"),
		"busy":     fmt.Errorf("%w: %s", busy{time.Minute}, to),
	} {
		for _, reading := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				f.get = func(context.Context, modcache.Key) (io.ReadCloser, error) {
					if reading {
						return io.NopCloser(iotest.ErrReader(err)), nil
					}
					return nil, err
				}
				f.put = func(context.Context, modcache.Key, []byte, bool) error { return err }
				told := &events{}
				s := over(t, f, remote.Options{Signer: generate(t), Retries: -1, OnEvent: told.take})
				defer s.Close()
				_, _, got := s.Get(t.Context(), key(1))
				require.NoError(t, add(t, s, key(2), 10))
				failed := s.Flush(t.Context())
				require.ErrorIs(t, got, err)
				require.ErrorIs(t, failed, err)
				for _, e := range []any{got, failed, told.all} {
					for _, verb := range []string{"%v", "%+v", "%q"} {
						require.NotContains(t, fmt.Sprintf(verb, e), "SECRET", name)
					}
				}
				require.ErrorContains(t, got, "storage.example/a/b?…")
			})
		}
	}
}

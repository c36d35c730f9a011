package remote_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/remote"
)

const (
	minute = time.Minute
	tick   = 5 * time.Millisecond
)

// TestS3SignV4 compares with the example that Amazon's documentation gives for GET.
func TestS3SignV4(t *testing.T) {
	r := httptest.NewRequest("GET", "https://examplebucket.s3.amazonaws.com/test.txt", nil)
	r.Header.Set("Range", "bytes=0-9")
	c := remote.Credentials{AccessKey: "AKIAIOSFODNN7EXAMPLE", SecretKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}
	remote.SignV4(r, sha256.Sum256(nil), c, "us-east-1", time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC))
	require.Equal(t, "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, "+
		"SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, "+
		"Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41", r.Header.Get("Authorization"))
}

// blobs is an HTTP server that keeps what it is given, by path.
type blobs struct {
	mu     sync.Mutex
	m      map[string][]byte
	log    []string
	refuse func(r *http.Request, body []byte) int // a status, or 0
}

func (s *blobs) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, r.Method+" "+r.Host+r.URL.Path)
	if s.refuse != nil {
		if code := s.refuse(r, body); code != 0 {
			w.WriteHeader(code)
			return
		}
	}
	switch r.Method {
	case "PUT":
		s.m[r.URL.Path] = body
	case "DELETE":
		delete(s.m, r.URL.Path)
	default:
		b, ok := s.m[r.URL.Path]
		if !ok {
			w.WriteHeader(404)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	}
}

func newBlobs(t testing.TB) (*blobs, string) {
	s := &blobs{m: map[string][]byte{}}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	return s, srv.URL
}

// roundTrip is what every kind of server must do.
func roundTrip(t *testing.T, url string, o remote.Options) {
	t.Helper()
	o.Signer = generate(t)
	s := open(t, url, patient(o))
	for i, size := range []int{0, 10, 2 << 20} {
		k := key(byte(i))
		require.Nil(t, get(t, s, k))
		require.NoError(t, add(t, s, k, size))
		require.NoError(t, s.Flush(t.Context()))
		a := get(t, s, k)
		require.NotNil(t, a)
		b, err := a.Bytes()
		require.NoError(t, err)
		require.True(t, bytes.Equal(code(size), b))

		other := open(t, url, patient(o))
		require.NoError(t, add(t, other, k, size))
		require.NoError(t, other.Flush(t.Context()))
		require.EqualValues(t, 1, other.Report().Present)
		require.EqualValues(t, 1, s.Report().Uploads-uint64(i))
	}

	// Another signer finds an entry that it can't use, and replaces it.
	o.Signer = generate(t)
	s = open(t, url, patient(o))
	require.Nil(t, get(t, s, key(1)))
	require.EqualValues(t, 1, s.Report().Untrusted)
	require.NoError(t, add(t, s, key(1), 10))
	require.NoError(t, s.Flush(t.Context()))
	require.NotNil(t, get(t, s, key(1)))

	if err := s.Delete(t.Context(), key(1)); err == nil {
		require.Nil(t, get(t, s, key(1)))
		require.NoError(t, s.Delete(t.Context(), key(1)))
	} else {
		require.NotContains(t, []remote.Layout{nil, remote.Plain}, o.Layout)
		t.Log("this server doesn't delete:", err)
	}
}

func TestReportKind(t *testing.T) {
	o := remote.Options{Signer: generate(t)}
	for want, layout := range map[string]remote.Layout{
		"plain": nil, "bazel-ac": remote.BazelAC, "bazel-cas": remote.BazelCAS, "s3": remote.S3{Bucket: "bucket"},
	} {
		o.Layout = layout
		require.Equal(t, want, open(t, "http://127.0.0.1:1", &o).Report().Kind)
	}
	s := over(t, newFake(), o) // whose Layout isn't used
	defer s.Close()
	require.Equal(t, "remote_test.fake", s.Report().Kind)

	var names map[string]any
	b, err := json.Marshal(s.Report())
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &names))
	for name := range names {
		require.Equal(t, strings.ToLower(name), name, "a field without a name for JSON")
	}
}

func TestLayoutRoundTrips(t *testing.T) {
	k := key(1).String()
	for name, c := range map[string]struct {
		layout remote.Layout
		path   string
	}{
		"plain":   {remote.Plain, "/base/01/" + k},
		"default": {nil, "/base/01/" + k},
		"ac":      {remote.BazelAC, "/base/ac/" + k},
		"s3 path": {remote.S3{Bucket: "buck-et", Prefix: "a=b/c_", PathStyle: true}, "/base/buck-et/a=b/c_01/" + k},
	} {
		t.Run(name, func(t *testing.T) {
			s, url := newBlobs(t)
			url += "/base/"
			roundTrip(t, url, remote.Options{Layout: c.layout})
			require.Contains(t, strings.Join(s.log, "\n"), " "+strings.TrimPrefix(url, "http://")[:len(url)-len("http://")-len("/base/")]+c.path+"\n")
		})
	}
	t.Run("ac to cas", func(t *testing.T) {
		s, url := newBlobs(t)
		roundTrip(t, url, remote.Options{Layout: remote.BazelCAS})
		for path, b := range s.m {
			if hash, ok := strings.CutPrefix(path, "/cas/"); ok {
				sum := sha256.Sum256(b)
				require.Equal(t, hash, hex.EncodeToString(sum[:]))
			}
		}
	})
	t.Run("s3 host", func(t *testing.T) {
		o := remote.Options{Signer: generate(t), Layout: remote.S3{Bucket: "buck-et"}}
		var host string
		o.Client = &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			host = r.URL.Host
			return nil, errors.New("enough")
		})}
		_, _, _ = open(t, "https://s3.example", patient(o)).Get(t.Context(), key(1))
		require.Equal(t, "buck-et.s3.example", host)
	})
}

// TestS3Signatures has a server check what it can without the documentation's help: that
// the signature covers what it should, with the credentials of the moment.
func TestS3Signatures(t *testing.T) {
	s, url := newBlobs(t)
	creds := remote.Credentials{AccessKey: "access", SecretKey: "secret", SessionToken: "session"}
	s.refuse = func(r *http.Request, body []byte) int {
		now, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
		if err != nil {
			return 400
		}
		again := &http.Request{Method: r.Method, URL: r.URL, Host: r.Host, Header: http.Header{}}
		if v := r.Header.Get("If-None-Match"); v != "" {
			if !strings.Contains(r.Header.Get("Authorization"), "SignedHeaders=host;if-none-match;x-amz-") {
				return 403
			}
			again.Header.Set("If-None-Match", v)
		}
		remote.SignV4(again, sha256.Sum256(body), creds, "eu-1", now)
		if again.Header.Get("Authorization") != r.Header.Get("Authorization") || r.Header.Get("X-Amz-Security-Token") != "session" {
			return 403
		}
		if r.Header.Get("If-None-Match") != "" {
			return 501 // no conditional writes here
		}
		return 0
	}
	layout := remote.S3{Bucket: "bucket", Region: "eu-1", PathStyle: true, Credentials: static("access", "secret", "session")}
	roundTrip(t, url, remote.Options{Layout: layout})

	layout.Credentials = static("access", "wrong", "session")
	st := open(t, url, patient(remote.Options{Layout: layout, Signer: generate(t)}))
	_, _, err := st.Get(t.Context(), key(1))
	require.ErrorContains(t, err, "403")
	require.EqualValues(t, 1, st.Report().Refused)

	for _, c := range []remote.Credentials{{}, {AccessKey: "access"}, {SecretKey: "secret"}, {SessionToken: "session"}} {
		layout.Credentials = static(c.AccessKey, c.SecretKey, c.SessionToken)
		st = open(t, url, patient(remote.Options{Layout: layout, Signer: generate(t)}))
		_, _, err = st.Get(t.Context(), key(1))
		require.ErrorContains(t, err, "S3.Credentials has returned no error, and not both")
		require.NotContains(t, err.Error(), "secret")
	}

	layout.Credentials = func(context.Context) (remote.Credentials, error) {
		return remote.Credentials{}, errors.New("no role attached")
	}
	st = open(t, url, patient(remote.Options{Layout: layout, Signer: generate(t)}))
	_, _, err = st.Get(t.Context(), key(1))
	require.ErrorContains(t, err, "no role attached")
}

func TestS3Options(t *testing.T) {
	for _, l := range []remote.S3{{}, {Bucket: "Upper"}, {Bucket: "a/b"}, {Bucket: "bucket", Prefix: "/x"}, {Bucket: "bucket", Prefix: "a/../b"},
		{Bucket: "bucket", Prefix: "a b"}, {Bucket: "bucket", Prefix: "a//b"}} {
		_, err := remote.New("http://host", &remote.Options{Layout: l, Signer: generate(t)})
		require.Error(t, err, "%+v", l)
	}
	_, err := remote.New("http://user@host", &remote.Options{Layout: remote.S3{Bucket: "bucket", Credentials: static("", "", "")}, Signer: generate(t)})
	require.Error(t, err)
}

// TestBazelForeignActions has others' action results under our keys.
func TestBazelForeignActions(t *testing.T) {
	s, url := newBlobs(t)
	o := patient(remote.Options{Layout: remote.BazelCAS, Signer: generate(t)})
	st := open(t, url, o)
	path := "/ac/" + key(1).String()
	for _, msg := range [][]byte{nil, {0x20, 1}, []byte("not a message"), bytes.Repeat([]byte{0x12, 0}, 1<<16)} {
		s.m[path] = msg
		require.Nil(t, get(t, st, key(1)), "as good as none")
	}
	s.m[path] = remote.AppendAction([32]byte{1}, 100)
	require.Nil(t, get(t, st, key(1)), "the blob was evicted")
	s.m[path] = remote.AppendAction([32]byte{1}, 1<<60)
	require.Nil(t, get(t, st, key(1)))
	require.EqualValues(t, 1, st.Report().TooLarge)
	require.Zero(t, st.Metrics().Errors)
}

func FuzzAction(f *testing.F) {
	f.Add(remote.AppendAction([32]byte{1, 2}, 3))
	f.Add([]byte{0x20, 1, 0x09, 1, 2, 3, 4, 5, 6, 7, 8, 0x15, 1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, msg []byte) {
		hash, size, err := remote.ParseAction(msg)
		if err != nil {
			return
		}
		h, n, err := remote.ParseAction(remote.AppendAction(hash, size))
		require.NoError(t, err)
		require.Equal(t, hash, h)
		require.Equal(t, size, n)
	})
}

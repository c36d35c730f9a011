package remote_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/remote"
)

// scripted is a server that answers one request after the other; the last answer stays.
type scripted struct {
	*httptest.Server
	mu   sync.Mutex
	seen []*http.Request // with their bodies read
}

func script(t *testing.T, answers ...http.HandlerFunc) *scripted {
	s := &scripted{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		s.mu.Lock()
		n := min(len(s.seen), len(answers)-1)
		s.seen = append(s.seen, r)
		s.mu.Unlock()
		answers[n](w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func answer(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func (s *scripted) methods() (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.seen {
		all = append(all, r.Method)
	}
	return all
}

// TestStoreReasons passes on what a server says, if it is text, in a line that can be printed.
func TestStoreReasons(t *testing.T) {
	text := []string{"Content-Type", "text/plain; charset=utf-8"}
	for name, c := range map[string]struct {
		body    string
		headers []string
		want    string
	}{
		"ours":     {"the disk\nis \x1b[2J full\xff\u2028!", text, "status 500 Internal Server Error: the disk is [2J full !"},
		"long":     {strings.Repeat("ä", 5000), text, strings.Repeat("ä", 100) + "…"},
		"S3":       {`<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Reduce your rate.</Message></Error>`, []string{"Content-Type", "application/xml"}, ": SlowDown: Reduce your rate."},
		"no S3":    {`<Error><Code>`, []string{"Content-Type", "application/xml"}, "Error"},
		"a page":   {"<html>500", []string{"Content-Type", "text/html"}, "Error"},
		"its name": {"Internal Server Error\n", text, "Error"},
	} {
		s := open(t, script(t, answer(500, c.body, c.headers...)).URL, patient(remote.Options{Signer: generate(t)}))
		_, _, err := s.Get(t.Context(), key(1))
		require.Error(t, err)
		require.True(t, strings.HasSuffix(err.Error(), c.want), "%s: %v", name, err)
		require.NotContains(t, err.Error(), "SlowDown: Reduce your rate. Endpoint")
		require.False(t, strings.ContainsFunc(err.Error(), unicode.IsControl), name)
	}
}

// TestStoreFinalAnswers tries nothing again that will be refused again.
func TestStoreFinalAnswers(t *testing.T) {
	for _, status := range []int{401, 403, 405, 413, 501} {
		srv := script(t, answer(404, ""), answer(status, "because", "Content-Type", "text/plain"))
		s := open(t, srv.URL, patient(remote.Options{Signer: generate(t)}))
		require.NoError(t, add(t, s, key(1), 100))
		err := s.Flush(t.Context())
		require.Error(t, err)
		require.Zero(t, s.Report().Retries, status)
		if status != 413 {
			require.ErrorContains(t, err, "because")
		}
	}
	// A bucket that is missing is no entry that is: it will be missing again.
	srv := script(t, answer(404, ""), answer(404, "<Error><Code>NoSuchBucket</Code><Message>The bucket does not exist.</Message></Error>", "Content-Type", "application/xml"))
	s := open(t, srv.URL, patient(remote.Options{Signer: generate(t)}))
	require.NoError(t, add(t, s, key(1), 100))
	require.ErrorContains(t, s.Flush(t.Context()), "NoSuchBucket: The bucket does not exist.")
	require.Zero(t, s.Report().Retries)
	_, _, err := s.Get(t.Context(), key(1))
	require.ErrorContains(t, err, "NoSuchBucket")
	require.Zero(t, s.Report().Absent)
	// Ours says who isn't trusted.
	stranger, known := generate(t), generate(t)
	url := serve(t, &storetest.Fake{}, &remote.HandlerOptions{WriteTokens: []string{token}, Keyring: remote.Keyring{Keys: []remote.PublicKey{known.Public()}}})
	s = open(t, url, patient(remote.Options{Signer: stranger, Header: bearer(token)}))
	require.NoError(t, add(t, s, key(1), 100))
	err = s.Flush(t.Context())
	require.ErrorContains(t, err, "403")
	require.ErrorContains(t, err, stranger.Public().ID().String())
	require.ErrorContains(t, err, known.Public().ID().String())
	require.Zero(t, s.Report().Retries)
}

// TestStoreConditionalPut takes what servers say to a condition as what it means.
func TestStoreConditionalPut(t *testing.T) {
	for name, c := range map[string]struct {
		answers []http.HandlerFunc
		present uint64
		lost    bool
	}{
		"412":                    {[]http.HandlerFunc{answer(404, ""), answer(412, "")}, 1, false},
		"304":                    {[]http.HandlerFunc{answer(404, ""), answer(304, "")}, 1, false},
		"409, and there":         {[]http.HandlerFunc{answer(404, ""), answer(409, ""), answer(200, "")}, 1, false},
		"409, for other reasons": {[]http.HandlerFunc{answer(404, ""), answer(409, ""), answer(404, "")}, 0, true},
	} {
		s := open(t, script(t, c.answers...).URL, patient(remote.Options{Signer: generate(t), Retries: -1}))
		require.NoError(t, add(t, s, key(1), 100))
		require.Equal(t, c.lost, s.Flush(t.Context()) != nil, name)
		require.Equal(t, c.present, s.Report().Present, name)
	}
}

// TestStoreExpectation does without permission to send where a server doesn't know that.
func TestStoreExpectation(t *testing.T) {
	random := make([]byte, 3<<20)
	for i, x := 0, uint32(1); i < len(random); i++ {
		x = x*1664525 + 1013904223
		random[i] = byte(x >> 24)
	}
	srv := script(t, answer(404, ""), answer(417, ""), answer(201, ""))
	s := open(t, srv.URL, patient(remote.Options{Signer: generate(t), Retries: -1}))
	require.NoError(t, s.Add(t.Context(), key(1), newArtifact(random)))
	require.NoError(t, s.Flush(t.Context()))
	require.Equal(t, []string{"HEAD", "PUT", "PUT"}, srv.methods())
	require.NotEmpty(t, srv.seen[1].Header.Get("Expect"))
	require.Empty(t, srv.seen[2].Header.Get("Expect"))
	require.Regexp(t, `^modcache/[^ ()]+$`, srv.seen[2].UserAgent())
}

// TestS3Clock corrects the clock by which requests are signed, once.
func TestS3Clock(t *testing.T) {
	theirs := time.Now().Add(-3 * time.Hour)
	refuse := answer(403, "", "Date", theirs.UTC().Format(http.TimeFormat))
	o := patient(remote.Options{Signer: generate(t), Layout: remote.S3{Bucket: "bucket", PathStyle: true, Credentials: static("a", "b", "")}})
	srv := script(t, refuse, answer(404, ""))
	s := open(t, srv.URL, o)
	require.Nil(t, get(t, s, key(1)))
	require.Nil(t, get(t, s, key(2)))
	require.Len(t, srv.seen, 3, "the clock stays corrected")
	for _, r := range srv.seen[1:] {
		at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
		require.NoError(t, err)
		require.WithinDuration(t, theirs, at, time.Minute)
	}
	srv = script(t, refuse)
	_, _, err := open(t, srv.URL, o).Get(t.Context(), key(1))
	require.ErrorContains(t, err, "403")
	require.Len(t, srv.seen, 2, "not more than once")
	for date, why := range map[string]string{
		"": "the time is right, and something else wrong",
		time.Now().UTC().Add(48 * time.Hour).Format(http.TimeFormat): "what is signed for the day after tomorrow would be good then",
		time.Now().UTC().AddDate(-1, 0, 0).Format(http.TimeFormat):   "nobody is a year slow",
	} {
		srv = script(t, answer(403, "", "Date", date))
		_, _, err = open(t, srv.URL, o).Get(t.Context(), key(1))
		require.Error(t, err)
		require.Len(t, srv.seen, 1, why)
	}
}

// TestS3Redirects signs anew for where the service has moved a bucket.
func TestS3Redirects(t *testing.T) {
	var there *httptest.Server
	var moved *http.Request
	there = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { moved = r }))
	defer there.Close()
	_, port, _ := strings.Cut(strings.TrimPrefix(there.URL, "http://"), ":")
	service := "localhost:" + port // of which the host below is a part
	signer := generate(t)
	b := entry(t, remote.Options{Signer: signer}, key(1), 1000)
	there.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.Host, "eu.") {
			http.Redirect(w, r, "http://eu."+service+r.URL.Path, http.StatusTemporaryRedirect)
			return
		}
		moved = r
		_, _ = w.Write(b)
	})
	o := patient(remote.Options{Signer: signer, Header: http.Header{"X-Secret": {"x"}}, Client: &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(mustURL(t, there.URL))}}})
	o.Layout = remote.S3{Bucket: "bucket", PathStyle: true, Credentials: static("a", "b", "")}
	s := open(t, "http://"+service, o)
	require.NotNil(t, get(t, s, key(1)))
	require.Contains(t, moved.Header.Get("Authorization"), "AWS4-HMAC-SHA256")
	require.Empty(t, moved.Header.Get("X-Secret"), "that is for the host in the URL")

	loop := script(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
	})
	o.Client = nil
	_, _, err := open(t, loop.URL, o).Get(t.Context(), key(1))
	require.ErrorContains(t, err, "redirects")
	require.Len(t, loop.seen, 6)

	region := script(t, answer(301, `<Error><Code>PermanentRedirect</Code><Message>Wrong endpoint.</Message><Endpoint>b.s3-eu-west-1.amazonaws.com</Endpoint></Error>`,
		"Content-Type", "application/xml", "X-Amz-Bucket-Region", "eu-west-1"))
	_, _, err = open(t, region.URL, o).Get(t.Context(), key(1))
	require.ErrorContains(t, err, "PermanentRedirect: Wrong endpoint. Endpoint: b.s3-eu-west-1.amazonaws.com The bucket is in region eu-west-1: set S3.Region")
}

func TestS3SameService(t *testing.T) {
	for _, c := range []struct {
		ours, theirs string
		want         bool
	}{
		{"s3.amazonaws.com", "bucket.s3.eu-west-1.amazonaws.com", true},
		{"s3.eu-west-1.amazonaws.com", "bucket.s3-us-west-2.amazonaws.com", true},
		{"s3.amazonaws.com", "bucket.s3-external-1.amazonaws.com", true},
		{"s3.us-gov-west-1.amazonaws.com", "bucket.s3-fips.dualstack.us-gov-west-1.amazonaws.com", true},
		{"s3.amazonaws.com", "bucket.s3-accelerate.dualstack.amazonaws.com", true},
		{"s3.amazonaws.com", "s3-1234567890.us-east-1.elb.amazonaws.com", false},
		{"s3.amazonaws.com", "s3.us-east-1.elb.amazonaws.com", false},
		{"s3.amazonaws.com", "s3-x.us-east-1.amazonaws.com", false},
		{"s3.amazonaws.com", "x.execute-api.us-east-1.amazonaws.com", false},
		{"s3.amazonaws.com", "s3.amazonaws.com.evil.example", false},
		{"s3.amazonaws.com", "bucket.s3.cn-north-1.amazonaws.com.cn", false},
		{"s3.example", "b.s3.example", true},
		{"s3.example", "evils3.example", false},
		{"s3.example:9000", "s3.example:9001", false},
	} {
		require.Equal(t, c.want, remote.SameService(c.ours, c.theirs), "%s %s", c.ours, c.theirs)
	}
}

func mustURL(t *testing.T, raw string) *url.URL {
	u, err := url.Parse(raw)
	require.NoError(t, err)
	return u
}

func TestStoreURLs(t *testing.T) {
	for _, raw := range []string{"cache.example", "cache.example:8077/x", "localhost:80", "", "user:secret@host"} {
		_, err := remote.New(raw, &remote.Options{Signer: generate(t)})
		require.ErrorContains(t, err, "begin with http://", raw)
		require.NotContains(t, err.Error(), "secret")
	}
	for _, raw := range []string{"https://secret/x@host", "http://u:secret://x@host", "https://u:secret/@host/x"} {
		_, err := remote.New(raw, &remote.Options{Signer: generate(t)})
		require.Error(t, err, raw)
		require.NotContains(t, err.Error(), "secret")
	}
	s, err := remote.New("https://host/%40x", &remote.Options{Signer: generate(t)})
	require.NoError(t, err)
	require.NoError(t, s.Close())
}

// TestStoreEndlessLimits survives the largest numbers.
func TestStoreEndlessLimits(t *testing.T) {
	const max = time.Duration(1<<63 - 1)
	signer := generate(t)
	disk := &storetest.Fake{}
	require.NoError(t, disk.Add(t.Context(), key(1), newArtifact(code(1000))))
	addr := serve(t, disk, &remote.HandlerOptions{Signer: signer})
	s := open(t, addr, &remote.Options{Signer: signer, DialTimeout: max, FirstByte: max, Stall: max, Budget: max, Pause: max, AbsentFor: max})
	require.NotNil(t, get(t, s, key(1)))
	ctx := modcache.WithCompileEstimate(t.Context(), max)
	_, ok, err := s.Get(ctx, key(1))
	require.NoError(t, err)
	require.True(t, ok)
}

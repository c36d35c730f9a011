package blob_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	gcblob "gocloud.dev/blob"
	"gocloud.dev/blob/driver"
	_ "gocloud.dev/blob/fileblob"
	"gocloud.dev/blob/memblob"
	_ "gocloud.dev/blob/s3blob"
	"gocloud.dev/gcerrors"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/backendtest"
	"github.com/modcache/modcache/remote"
	"github.com/modcache/modcache/remote/blob"
)

var key = modcache.Key{1, 2, 3}

func TestConformance(t *testing.T) {
	for name, bucket := range map[string]func(tb testing.TB) *gcblob.Bucket{
		"memory": func(testing.TB) *gcblob.Bucket { return memblob.OpenBucket(nil) },
		"files": func(tb testing.TB) *gcblob.Bucket {
			b, err := gcblob.OpenBucket(context.Background(), "file://"+tb.TempDir()+"?no_tmp_dir=true")
			require.NoError(tb, err)
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "files" && testing.Short() {
				t.Skip("NOT TESTED: a bucket of files, which syncs each")
			}
			backendtest.Conforms(t, func(tb testing.TB) backendtest.Server {
				b, err := blob.New(bucket(tb))
				require.NoError(tb, err)
				tb.Cleanup(func() { require.NoError(tb, b.Close()) })
				return backendtest.Over(b)
			})
		})
	}
}

// amazon opens a bucket of S3 at a server of ours, with credentials from the environment, where Amazon's own tools look first.
func amazon(t *testing.T, url, access, secret string) *blob.Backend {
	t.Helper()
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret, "AWS_MAX_ATTEMPTS": "1",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(name, value)
	}
	b, err := blob.Open(t.Context(), "s3://bucket?region=us-east-1&use_path_style=true&prefix=fleet/&endpoint="+url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

// TestHostileServer says what a store learns of refusals, and of an answer that is cut.
func TestHostileServer(t *testing.T) {
	var status int
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status != http.StatusOK {
			w.WriteHeader(status)
			return
		}
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "cut")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer s.Close()
	b := amazon(t, s.URL, "id", "secret")

	status = http.StatusNotFound
	_, err := b.Get(t.Context(), key)
	require.ErrorIs(t, err, fs.ErrNotExist)
	there, err := b.Has(t.Context(), key)
	require.NoError(t, err)
	require.False(t, there)
	status = http.StatusForbidden
	_, err = b.Get(t.Context(), key)
	require.ErrorIs(t, err, fs.ErrPermission)
	require.ErrorIs(t, b.Put(t.Context(), key, []byte("entry"), false), fs.ErrPermission)
	status = http.StatusInternalServerError
	_, err = b.Get(t.Context(), key)
	require.Error(t, err)
	require.NotErrorIs(t, err, fs.ErrNotExist)
	status = http.StatusOK
	r, err := b.Get(t.Context(), key)
	require.NoError(t, err)
	_, err = io.ReadAll(r)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.NoError(t, r.Close())
}

// TestAmazonRefuses what isn't about one entry: a fleet whose bucket is missing, or in another region, would stay cold, and nobody
// would know why.
func TestAmazonRefuses(t *testing.T) {
	var status int
	var code string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "<Error><Code>"+code+"</Code><Message>m</Message></Error>")
	}))
	defer s.Close()
	b := amazon(t, s.URL, "id", "secret")
	for _, c := range []struct {
		status int
		code   string
		want   error
	}{
		{404, "NoSuchKey", fs.ErrNotExist},
		{404, "NoSuchBucket", fs.ErrPermission},
		{301, "PermanentRedirect", fs.ErrPermission},
		{403, "AccessDenied", fs.ErrPermission},
		{403, "InvalidAccessKeyId", fs.ErrPermission},
		{403, "SignatureDoesNotMatch", fs.ErrPermission},
		{400, "ExpiredToken", nil}, // there may be a new one
	} {
		status, code = c.status, c.code
		_, err := b.Get(t.Context(), key)
		require.ErrorContains(t, err, c.code)
		for _, known := range []error{fs.ErrNotExist, fs.ErrPermission} {
			require.Equal(t, known == c.want, errors.Is(err, known), "%v", err)
		}
	}
}

// failing is a driver whose requests fail.
type failing struct {
	driver.Bucket
	err  error
	code gcerrors.ErrorCode
}

func (f failing) NewRangeReader(context.Context, string, int64, int64, *driver.ReaderOptions) (driver.Reader, error) {
	return nil, f.err
}

func (f failing) NewTypedWriter(context.Context, string, string, *driver.WriterOptions) (driver.Writer, error) {
	return nil, f.err
}

func (f failing) Attributes(context.Context, string) (*driver.Attributes, error) { return nil, f.err }
func (f failing) Delete(context.Context, string) error                           { return f.err }
func (f failing) ErrorCode(error) gcerrors.ErrorCode                             { return f.code }
func (failing) Close() error                                                     { return nil }

// calls returns what each call of a Backend over the driver returns.
func (f failing) calls(t *testing.T) []error {
	t.Helper()
	b, err := blob.New(gcblob.NewBucket(f))
	require.NoError(t, err)
	defer b.Close()
	_, get := b.Get(t.Context(), key)
	_, has := b.Has(t.Context(), key)
	return []error{get, has, b.Put(t.Context(), key, []byte("entry"), false), b.Delete(t.Context(), key)}
}

// operation is an error of Amazon's SDK.
type operation struct{ error }

func (operation) Service() string   { return "S3" }
func (operation) Operation() string { return "GetObject" }
func (o operation) Unwrap() error   { return o.error }

// answer is what it wraps, with a status; 0 if there was no answer.
type answer struct {
	error
	status int
}

func (a answer) HTTPStatusCode() int { return a.status }

// TestAmazonSaysOtherwise where the driver takes "301" in a port or a key for a status, and that for an object that isn't there.
func TestAmazonSaysOtherwise(t *testing.T) {
	said := errors.New("from 127.0.0.1:30123")
	for name, c := range map[string]struct {
		err    error
		absent bool
	}{
		"no credentials": {operation{said}, false},
		"no answer":      {operation{answer{said, 0}}, false},
		"busy":           {operation{answer{said, 503}}, false},
		"not found":      {operation{answer{said, 404}}, true},
		"not Amazon's":   {said, true},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := blob.New(gcblob.NewBucket(failing{err: c.err, code: gcerrors.NotFound}))
			require.NoError(t, err)
			defer b.Close()
			_, err = b.Get(t.Context(), key)
			require.Equal(t, c.absent, errors.Is(err, fs.ErrNotExist), "%v", err)
			_, err = b.Has(t.Context(), key)
			require.Equal(t, c.absent, err == nil, "%v", err)
			require.Equal(t, c.absent, b.Delete(t.Context(), key) == nil)
		})
	}
}

// TestUnanswered: a secret that isn't mounted isn't an entry that isn't there.
func TestUnanswered(t *testing.T) {
	_, missing := os.ReadFile(filepath.Join(t.TempDir(), "token"))
	for _, err := range (failing{err: fmt.Errorf("credentials: %w", missing), code: gcerrors.Unknown}).calls(t) {
		require.ErrorContains(t, err, "credentials: ")
		require.NotErrorIs(t, err, fs.ErrNotExist)
	}
}

// TestHidesQueries asks a cloud with a query, which may be what lets its bearer in.
func TestHidesQueries(t *testing.T) {
	refused := &url.Error{Op: "Get", URL: "https://account.example/fleet/x?sig=SECRET", Err: io.ErrClosedPipe}
	for _, err := range (failing{err: refused, code: gcerrors.PermissionDenied}).calls(t) {
		require.ErrorContains(t, err, "account.example/fleet/x?…")
		require.NotContains(t, err.Error(), "SECRET")
		require.ErrorIs(t, err, fs.ErrPermission)
	}
	for _, wrong := range []string{
		"nosuch://user:SECRET@bucket?sig=SECRET", "nosuch://user:/SECRET@bucket", "nosuch://user:x/SECRET@bucket", "nosuch://user:?SECRET@bucket",
		"nosuch://bucket?sig=%zzSECRET", "nosuch://bucket?a=\"SECRET\"&b=a SECRET", "nosuch://bucket#SECRET", "nosuch://user:%zzSECRET@bucket",
	} {
		_, err := blob.Open(t.Context(), wrong)
		require.ErrorContains(t, err, "modcache: the ")
		require.NotContains(t, err.Error(), "SECRET", wrong)
	}
}

// hanging is a driver whose requests hang, whatever their context says.
type hanging struct {
	failing
	began, goOn chan struct{}
}

func (h hanging) NewRangeReader(context.Context, string, int64, int64, *driver.ReaderOptions) (driver.Reader, error) {
	close(h.began)
	<-h.goOn
	return nil, h.err
}

func TestCloseLeavesWhatHangs(t *testing.T) {
	began, goOn := make(chan struct{}), make(chan struct{})
	b, err := blob.New(gcblob.NewBucket(hanging{failing{err: io.ErrClosedPipe}, began, goOn}))
	require.NoError(t, err)
	done := make(chan error)
	go func() {
		_, err := b.Get(t.Context(), key)
		done <- err
	}()
	<-began
	require.ErrorContains(t, b.Close(), "can't be closed")
	close(goOn)
	require.Error(t, <-done)
}

// opener is a driver that calls a function.
type opener func(ctx context.Context) (*gcblob.Bucket, error)

func (o opener) OpenBucketURL(ctx context.Context, _ *url.URL) (*gcblob.Bucket, error) { return o(ctx) }

// TestOpenBeyondItsContext: drivers renew credentials under the context that they were given; and some look for them for long.
func TestOpenBeyondItsContext(t *testing.T) {
	var given context.Context
	goOn := make(chan struct{})
	scheme := "renewing" + strings.ToLower(rand.Text()) // of this run
	gcblob.DefaultURLMux().RegisterBucket(scheme, opener(func(ctx context.Context) (*gcblob.Bucket, error) {
		given = ctx
		return memblob.OpenBucket(nil), nil
	}))
	gcblob.DefaultURLMux().RegisterBucket("slow"+scheme, opener(func(context.Context) (*gcblob.Bucket, error) {
		<-goOn
		return memblob.OpenBucket(nil), nil
	}))
	defer close(goOn)
	type client struct{}
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), client{}, "has a time limit"))
	b, err := blob.Open(ctx, scheme+"://bucket")
	require.NoError(t, err)
	defer b.Close()
	cancel()
	require.NoError(t, given.Err())
	require.Equal(t, "has a time limit", given.Value(client{}))

	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = blob.Open(ctx, "slow"+scheme+"://bucket")
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestOpenMisuse(t *testing.T) {
	for _, right := range []string{"mem://", "mem://?prefix=a/", "file://" + filepath.ToSlash(t.TempDir()) + "?prefix=a+b/"} {
		b, err := blob.Open(t.Context(), right)
		require.NoError(t, err, right)
		require.NoError(t, b.Close())
	}
	_, err := blob.Open(t.Context(), "nosuch://bucket")
	require.ErrorContains(t, err, "modcache: the bucket can't be opened")
	_, err = blob.New(nil)
	require.ErrorContains(t, err, "modcache: ")
}

// TestServerVersityGW needs MODCACHE_SERVERS=1 and what .ci/remote-servers installs.
func TestServerVersityGW(t *testing.T) {
	if os.Getenv("MODCACHE_SERVERS") == "" {
		t.Skip("SKIPPED: set MODCACHE_SERVERS=1 to test against real servers")
	}
	bin, err := exec.LookPath("versitygw")
	if err != nil {
		t.Skipf("SKIPPED: no versitygw here, run .ci/remote-servers: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	addr, dir := l.Addr().String(), t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "bucket"), 0o700))
	var out bytes.Buffer
	cmd := exec.Command(bin, "--port", addr, "posix", "--nometa", dir)
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY=fleet", "ROOT_SECRET_KEY=secret")
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(out.String())
		}
	}()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			_ = c.Close()
			break
		}
		require.True(t, time.Now().Before(deadline), "versitygw doesn't listen")
	}

	signer := backendtest.Generate(t)
	writer := backendtest.Open(t, amazon(t, "http://"+addr, "fleet", "secret"), remote.Options{Signer: signer})
	require.NoError(t, writer.Add(t.Context(), key, modcache.NewArtifact([]byte("code"), modcache.Info{})))
	require.NoError(t, writer.Flush(t.Context()))
	require.FileExists(t, filepath.Join(dir, "bucket", "fleet", key.String()[:2], key.String()))
	// The same bucket, without the drivers.
	reader, err := remote.New("http://"+addr, &remote.Options{
		Layout: remote.S3{Bucket: "bucket", Prefix: "fleet/", PathStyle: true, Credentials: func(context.Context) (remote.Credentials, error) {
			return remote.Credentials{AccessKey: "fleet", SecretKey: "secret"}, nil
		}},
		Keyring:   remote.Keyring{Keys: []remote.PublicKey{signer.Public()}},
		FirstByte: time.Minute, Stall: time.Minute, Budget: time.Minute,
	})
	require.NoError(t, err)
	defer reader.Close()
	_, ok, err := reader.Get(t.Context(), key)
	require.NoError(t, err)
	require.True(t, ok)
	require.NoError(t, writer.Delete(t.Context(), key))
	require.NoError(t, writer.Delete(t.Context(), key))
	_, ok, err = writer.Get(t.Context(), key)
	require.NoError(t, err)
	require.False(t, ok)

	wrong := backendtest.Open(t, amazon(t, "http://"+addr, "fleet", "wrong"), remote.Options{Signer: signer})
	_, _, err = wrong.Get(t.Context(), key)
	require.ErrorContains(t, err, "403", "this server checks signatures")
}

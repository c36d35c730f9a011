package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/remote"
)

const serveChild = "MODCACHE_SERVE_CHILD"

// TestServeChild is not a test but a server that another test starts, and kills.
func TestServeChild(t *testing.T) {
	args := os.Getenv(serveChild)
	if args == "" {
		t.Skip("runs in processes that another test starts")
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(exitFailed) // whoever has started it is gone
	}()
	os.Exit(run(bg, strings.Split(args, "\n"), &streams{out: os.Stdout, err: os.Stderr}))
}

// signedEntry returns an artifact as its signer uploads it.
func signedEntry(t *testing.T, signer *remote.PrivateKey, key modcache.Key, code []byte) (entry []byte) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPut {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		entry, _ = io.ReadAll(r.Body)
	}))
	defer srv.Close()
	s, err := remote.New(srv.URL, &remote.Options{Signer: signer, FirstByte: time.Minute, Stall: time.Minute, Budget: time.Minute})
	require.NoError(t, err)
	defer s.Close()
	require.NoError(t, s.Add(bg, key, modcache.NewArtifact(code, modcache.Info{Engine: "an engine", Created: time.Unix(1e9, 0)})))
	require.NoError(t, s.Flush(bg))
	return entry
}

// crowd are the clients of a server that is killed again and again. They know the two entries that may be
// under each key, and which of them the server has acknowledged.
type crowd struct {
	client  *http.Client
	addr    atomic.Pointer[string] // of the server that runs
	token   string
	entries [][2][]byte
	sums    [][2][sha256.Size]byte
	wrong   [][]byte // entries that the server must refuse
	there   []atomic.Bool
	acks    atomic.Int64
	reads   atomic.Int64
	refused atomic.Int64
	faults  chan string // of the server, the first ones
}

func killKey(i int) modcache.Key { return modcache.Key{byte(i), 0xcd} }

func (c *crowd) fault(format string, args ...any) {
	select {
	case c.faults <- fmt.Sprintf(format, args...):
	default:
	}
}

// do returns the status of a request, and the hash of the body if all of it came.
func (c *crowd) do(method string, i int, body []byte) (status int, sum [sha256.Size]byte, err error) {
	req, err := http.NewRequest(method, "http://server/"+killKey(i).String(), bytes.NewReader(body))
	if err != nil {
		return 0, sum, err
	}
	if method == http.MethodPut {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return 0, sum, err
	}
	defer resp.Body.Close()
	h := sha256.New()
	_, err = io.Copy(h, resp.Body)
	return resp.StatusCode, [sha256.Size]byte(h.Sum(nil)), err
}

// one makes one request. Whether the server was there at all is not its business.
func (c *crowd) one(rng *rand.Rand) {
	i := rng.IntN(len(c.entries))
	switch rng.IntN(8) {
	case 0, 1, 2:
		switch status, _, err := c.do(http.MethodPut, i, c.entries[i][rng.IntN(2)]); {
		case err != nil || status == http.StatusServiceUnavailable || status == http.StatusRequestTimeout: // of us who are slow
			time.Sleep(5 * time.Millisecond)
		case status == http.StatusCreated:
			c.there[i].Store(true)
			c.acks.Add(1)
		default:
			c.fault("an upload is answered with %d", status)
		}
	case 3:
		status, _, err := c.do(http.MethodPut, i, c.wrong[i])
		switch {
		case err == nil && status/100 == 2:
			c.fault("the server takes what nobody has signed whom it trusts")
		case err == nil && status/100 == 4:
			c.refused.Add(1)
		}
	default:
		c.read(i)
	}
}

func (c *crowd) read(i int) {
	was := c.there[i].Load()
	switch status, sum, err := c.do(http.MethodGet, i, nil); {
	case err != nil || status == http.StatusServiceUnavailable:
		time.Sleep(5 * time.Millisecond)
	case status == http.StatusOK:
		if sum != c.sums[i][0] && sum != c.sums[i][1] {
			c.fault("entry %d is none that was signed", i)
		}
		c.reads.Add(1)
	case status != http.StatusNotFound:
		c.fault("a download is answered with %d", status)
	case was:
		c.fault("entry %d is lost", i)
	}
}

// serveProcess starts a server, and tells the crowd where it is.
func (c *crowd) serveProcess(t *testing.T, args ...string) (kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestServeChild$")
	cmd.Env = append(os.Environ(), serveChild+"="+strings.Join(append([]string{"serve", "-addr", "127.0.0.1:0"}, args...), "\n"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = in.Close()
	})
	t.Cleanup(kill)
	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan(), &stderr)
	addr := strings.TrimPrefix(lines.Text(), "serving http://")
	c.addr.Store(&addr)
	return kill
}

// TestServeIsKilled has 64 clients read from a server, and upload to it, that is killed in the middle and
// started again. No entry that it has acknowledged is lost, not even while others replace it, and nothing
// is served but what was signed. With MODCACHE_THOROUGH, entries have 1 to 86 MB, for a minute.
func TestServeIsKilled(t *testing.T) {
	const clients = 64
	lives, perLife, least := 3, int64(40), time.Duration(0)
	sizes := []int{1, 3000, 20_000, 20_000, 100_000, 300_000, 300_000, 1 << 20}
	if os.Getenv("MODCACHE_THOROUGH") != "" {
		lives, least = 6, 10*time.Second
		sizes = []int{1 << 20, 3 << 20, 8 << 20, 22 << 20, 22 << 20, 86 << 20}
	}
	file, public := keypair(t)
	signer, err := readKeyFile(file)
	require.NoError(t, err)
	stranger, err := remote.GenerateKey()
	require.NoError(t, err)
	base := t.TempDir()
	dir, tokens, keyring := filepath.Join(base, "entries"), filepath.Join(base, "tokens"), filepath.Join(base, "keyring")
	c := &crowd{token: "a token", faults: make(chan string, 5), there: make([]atomic.Bool, len(sizes))}
	require.NoError(t, os.WriteFile(tokens, []byte(c.token), 0o600))
	require.NoError(t, os.WriteFile(keyring, []byte(public.String()+"\n"), 0o600))
	transport := &http.Transport{MaxIdleConnsPerHost: clients, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, *c.addr.Load())
	}}
	defer transport.CloseIdleConnections()
	c.client = &http.Client{Transport: transport}
	random := rand.NewChaCha8([32]byte{1})
	for i, size := range sizes {
		var two [2][]byte
		for v := range two {
			code := make([]byte, size+v)
			_, _ = random.Read(code)
			two[v] = signedEntry(t, signer, killKey(i), code)
		}
		c.entries = append(c.entries, two)
		c.sums = append(c.sums, [2][sha256.Size]byte{sha256.Sum256(two[0]), sha256.Sum256(two[1])})
		wrong := signedEntry(t, stranger, killKey(i), make([]byte, size))
		if i%2 == 1 {
			wrong = bytes.Clone(two[0])
			wrong[len(wrong)-1] ^= 1
		}
		c.wrong = append(c.wrong, wrong)
	}

	args := []string{"-dir", dir, "-write-tokens", tokens, "-keyring", keyring}
	kill := c.serveProcess(t, args...)
	ended := make(chan struct{})
	var running sync.WaitGroup
	for n := range clients {
		running.Go(func() {
			for rng := rand.New(rand.NewPCG(uint64(n), 1)); ; c.one(rng) {
				select {
				case <-ended:
					return
				default:
				}
			}
		})
	}
	stop := sync.OnceFunc(func() { close(ended); running.Wait() })
	defer stop()
	for life := range lives {
		if life > 0 {
			kill = c.serveProcess(t, args...)
		}
		start, before, read := time.Now(), c.acks.Load(), c.reads.Load()
		require.Eventually(t, func() bool {
			done := c.acks.Load() >= before+perLife && c.reads.Load() >= read+perLife && time.Since(start) >= least
			return done || len(c.faults) > 0
		}, 5*time.Minute, time.Millisecond)
		kill() // while requests are under way
		require.Empty(t, drained(c.faults))
	}
	stop()
	kill = c.serveProcess(t, args...)
	for i := range sizes {
		c.read(i)
	}
	require.Empty(t, drained(c.faults))
	require.NotZero(t, c.refused.Load())
	kill()
	call("verify", "-dir", dir).want(t, exitOK)
	t.Logf("%d uploads acknowledged, %d refused, %d downloads, %d kills", c.acks.Load(), c.refused.Load(), c.reads.Load(), lives)
}

func drained(c chan string) (all []string) {
	for len(c) > 0 {
		all = append(all, <-c)
	}
	return all
}

//go:build unix

package remote_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/remote"
)

// suspends is a client's transport that suspends its own process: once the server has the request, or so
// many bytes of the answer are there.
type suspends struct{ after int }

func (s suspends) RoundTrip(r *http.Request) (*http.Response, error) {
	trace := &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error { suspend(); return nil }}
	resp, err := http.DefaultTransport.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
	if err == nil && s.after > 0 {
		resp.Body = &suspendingBody{resp.Body, s.after}
	}
	return resp, err
}

type suspendingBody struct {
	io.ReadCloser
	left int // until it suspends
}

func (b *suspendingBody) Read(p []byte) (int, error) {
	if b.left > 0 {
		p = p[:min(len(p), b.left)]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= n; b.left == 0 {
		b.left = -1
		suspend()
	}
	return n, err
}

func suspend() { _ = syscall.Kill(os.Getpid(), syscall.SIGSTOP) }

// TestStoreWhileSuspended has a process stopped for four times as long as it waits for an answer, with the
// default limits, before the answer and in the middle of it. The server isn't to blame.
func TestStoreWhileSuspended(t *testing.T) {
	const variable = "MODCACHE_TEST_SUSPENDED"
	if v := os.Getenv(variable); v != "" {
		args := strings.SplitN(v, " ", 3)
		after, err := strconv.Atoi(args[1])
		require.NoError(t, err)
		k, err := remote.ParsePublicKey(args[2])
		require.NoError(t, err)
		s := open(t, args[0], &remote.Options{
			Keyring: remote.Keyring{Keys: []remote.PublicKey{k}}, Client: &http.Client{Transport: suspends{after}},
		})
		_, ok, err := s.Get(t.Context(), key(1))
		r := s.Report()
		fmt.Printf("\nfound %v, %v, pauses %d, timeouts %d\n", ok, err, r.Pauses, r.Timeouts)
		return
	}
	signer := generate(t)
	b := entry(t, remote.Options{Signer: signer}, key(1), 60_000)
	for name, before := range map[string]int{"before the answer": 0, "within the answer": len(b) / 2} {
		t.Run(name, func(t *testing.T) {
			suspended, answered := make(chan bool), make(chan bool)
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				flush := w.(http.Flusher).Flush
				w.Header().Set("Content-Length", strconv.Itoa(len(b)))
				if before == 0 {
					w.WriteHeader(http.StatusEarlyHints)
				} else {
					_, _ = w.Write(b[:before])
					flush()
				}
				<-suspended
				_, _ = w.Write(b[before:])
				flush()
				close(answered)
			}))
			defer srv.Close()
			cmd := exec.Command(os.Args[0], "-test.run=^TestStoreWhileSuspended$", "-test.count=1")
			cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %s", variable, srv.URL, before, signer.Public()))
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			if err := cmd.Start(); err != nil {
				t.Skipf("SKIPPED: no child processes here: %v", err)
			}
			defer cmd.Wait()
			var status syscall.WaitStatus
			_, err = syscall.Wait4(cmd.Process.Pid, &status, syscall.WUNTRACED, nil)
			require.NoError(t, err)
			require.True(t, status.Stopped(), "the process has ended")
			time.Sleep(time.Second) // what is tested
			// The answer waits in the kernel when the process goes on: how fast this one is doesn't matter then.
			suspended <- true
			<-answered
			require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
			said := ""
			for lines := bufio.NewScanner(out); lines.Scan(); {
				if strings.HasPrefix(lines.Text(), "found") {
					said = lines.Text()
				}
			}
			require.Equal(t, "found true, <nil>, pauses 0, timeouts 0", said)
		})
	}
}

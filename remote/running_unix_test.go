//go:build unix

package remote_test

import (
	"bufio"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/remote"
)

// TestStoreWhileSuspended has a process stopped for four times as long as it waits for an answer, with the
// default limits, before the answer and in the middle of it. The server isn't to blame.
func TestStoreWhileSuspended(t *testing.T) {
	const variable = "MODCACHE_TEST_SUSPENDED"
	if v := os.Getenv(variable); v != "" {
		url, public, _ := strings.Cut(v, " ")
		k, err := remote.ParsePublicKey(public)
		require.NoError(t, err)
		s := open(t, url, &remote.Options{Keyring: remote.Keyring{Keys: []remote.PublicKey{k}}})
		_, ok, err := s.Get(t.Context(), key(1))
		r := s.Report()
		fmt.Printf("\nfound %v, %v, pauses %d, timeouts %d\n", ok, err, r.Pauses, r.Timeouts)
		return
	}
	signer := generate(t)
	b := entry(t, remote.Options{Signer: signer}, key(1), 600_000)
	for name, before := range map[string]int{"before the answer": 0, "within the answer": len(b) / 2} {
		t.Run(name, func(t *testing.T) {
			asked, again := make(chan bool), make(chan bool)
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write(b[:before])
				if before > 0 {
					w.(http.Flusher).Flush()
				}
				asked <- true
				<-again
				_, _ = w.Write(b[before:])
			}))
			defer srv.Close()
			cmd := exec.Command(os.Args[0], "-test.run=^TestStoreWhileSuspended$", "-test.count=1")
			cmd.Env = append(os.Environ(), variable+"="+srv.URL+" "+signer.Public().String())
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			if err := cmd.Start(); err != nil {
				t.Skipf("SKIPPED: no child processes here: %v", err)
			}
			defer cmd.Wait()
			select {
			case <-asked:
			case <-time.After(minute):
				t.Fatal("the process asks nothing")
			}
			require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
			time.Sleep(time.Second) // what is tested
			require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
			again <- true
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

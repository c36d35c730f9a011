//go:build linux || darwin

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/remote"
)

var (
	chaosFor  = flag.Duration("chaos", 4*time.Second, "how long TestChaos goes on")
	chaosSeed = flag.Uint64("chaosseed", 0, "what TestChaos does; 0 = something new")
)

// TestChaos runs a few processes over one directory and one server, and does to
// them what happens to processes, directories and servers. The processes check
// every result. After every step, the directory is within its bounds; in the end,
// nothing is left behind and everything is cached again.
//
// The seed decides what happens in which order, but not how it meets what the
// processes do at that moment. For longer: go test -run '^TestChaos$' ./internal/e2e -args -chaos=10m
func TestChaos(t *testing.T) {
	needsCompiler(t)
	if testing.Short() {
		t.Skip("takes seconds")
	}
	seed := *chaosSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-chaosseed=%d", seed)
	w := newChaosWorld(t, seed)
	end := time.Now().Add(*chaosFor)
	for time.Now().Before(end) {
		for i := range w.fleet {
			if w.fleet[i] == nil || w.fleet[i].ended() {
				w.bury(i)
				w.fleet[i] = w.start()
			}
		}
		w.fault()
		w.awaitProgress()
		w.requireBounds()
	}
	w.undo()
	for i := range w.fleet {
		w.bury(i)
	}
	w.requireHealed()
	t.Logf("%d processes, %d runs of modules, faults: %v", w.processes, w.runs, w.count)
}

// chaosWorld is the processes, their directory and their server.
type chaosWorld struct {
	t        *testing.T
	rng      *rand.Rand
	dir      string
	server   *httptest.Server
	progress chan struct{}
	fleet    [3]*chaosProcess
	restore  []func() // what ends faults that last

	mu     sync.Mutex // guards bad
	bad    *rand.Rand // what the server does
	grown  int64      // bytes that faults have added to entries
	count  map[string]int
	killed int

	processes, runs int
}

func newChaosWorld(t *testing.T, seed uint64) *chaosWorld {
	w := &chaosWorld{
		t: t, rng: rand.New(rand.NewPCG(seed, 0)), bad: rand.New(rand.NewPCG(seed, 1)),
		dir: filepath.Join(t.TempDir(), "cache"), progress: make(chan struct{}, 1000), count: make(map[string]int),
	}
	h, err := remote.NewHandler(modcache.NewMemory(nil), &remote.HandlerOptions{WriteTokens: []string{chaosToken}})
	require.NoError(t, err)
	w.server = httptest.NewServer(w.flaky(h))
	t.Cleanup(w.server.Close)
	t.Cleanup(func() {
		for _, p := range w.fleet {
			if p != nil {
				_ = p.cmd.Process.Kill()
				<-p.done
			}
		}
	})
	return w
}

// flaky has a server fail, stall, cut and forge what it answers.
func (w *chaosWorld) flaky(h http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		what, where := w.bad.IntN(20), w.bad.Uint64()
		w.mu.Unlock()
		switch what {
		case 0:
			http.Error(rw, "injected", http.StatusInternalServerError)
			return
		case 1:
			panic(http.ErrAbortHandler)
		case 2:
			time.Sleep(300 * time.Millisecond)
		case 3, 4:
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			body := rec.Body.Bytes()
			if len(body) > 0 && what == 3 {
				body[where%uint64(len(body))] ^= 4
			} else if len(body) > 0 {
				defer func() { panic(http.ErrAbortHandler) }()
				body = body[:where%uint64(len(body))]
			}
			for name, values := range rec.Header() {
				rw.Header()[name] = values
			}
			rw.WriteHeader(rec.Code)
			_, _ = rw.Write(body)
			return
		}
		h.ServeHTTP(rw, r)
	})
}

// chaosProcess is one child.
type chaosProcess struct {
	cmd    *exec.Cmd
	out    bytes.Buffer // complete once done is closed
	done   chan struct{}
	err    error
	killed bool
}

func (p *chaosProcess) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (w *chaosWorld) start() *chaosProcess {
	w.processes++
	clocks := []time.Duration{0, 0, 0, 2 * time.Hour, -2 * time.Hour, 40 * 24 * time.Hour, -400 * 24 * time.Hour}
	l := chaosLife{
		Dir: w.dir, URL: w.server.URL, Seed: w.rng.Uint64(), Ops: 5 + w.rng.IntN(60),
		Clock: clocks[w.rng.IntN(len(clocks))], Layers: w.rng.IntN(3) == 0,
	}
	if w.rng.IntN(5) == 0 {
		l.FileSize = uint64(1 + w.rng.IntN(30_000))
	}
	text, err := json.Marshal(l)
	require.NoError(w.t, err)
	p := &chaosProcess{cmd: exec.Command(os.Args[0], "-test.run=^TestChaosChild$", "-test.count=1"), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), chaosVariable+"="+string(text))
	p.cmd.Stderr = &p.out
	out, err := p.cmd.StdoutPipe()
	require.NoError(w.t, err)
	require.NoError(w.t, p.cmd.Start())
	go func() {
		defer close(p.done)
		var text bytes.Buffer
		lines := bufio.NewScanner(io.TeeReader(out, &text))
		for lines.Scan() {
			if bytes.HasPrefix(lines.Bytes(), []byte("ran ")) {
				w.progress <- struct{}{}
			}
		}
		p.err = p.cmd.Wait()
		p.out.Write(text.Bytes())
	}()
	return p
}

// bury waits for the end of a process, which must have been a good one.
func (w *chaosWorld) bury(i int) {
	p := w.fleet[i]
	if p == nil {
		return
	}
	const stuck = time.Minute
	timer := time.NewTimer(stuck)
	defer timer.Stop()
	for !p.ended() {
		select {
		case <-p.done:
		case <-w.progress:
			w.runs++
			timer.Reset(stuck)
		case <-timer.C:
			_ = p.cmd.Process.Signal(syscall.SIGQUIT)
			<-p.done
			require.FailNow(w.t, "a process is stuck", "%s", &p.out)
		}
	}
	w.fleet[i] = nil
	var exit *exec.ExitError
	if p.killed && errors.As(p.err, &exit) && !exit.Exited() {
		return
	}
	require.NoError(w.t, p.err, "%s", &p.out)
}

// awaitProgress returns when the processes have run a few modules since.
func (w *chaosWorld) awaitProgress() {
	for range 1 + w.rng.IntN(6) {
		timer := time.NewTimer(time.Minute)
		select {
		case <-w.progress:
			w.runs++
		case <-timer.C:
			require.FailNow(w.t, "no process gets anywhere")
		case <-w.fleet[0].done: // there may be nobody left
		}
		timer.Stop()
	}
}

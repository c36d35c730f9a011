package modcache

import (
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache/internal/wazerohook"
)

// stuckFiles are wazero's own, on a file system that hangs when a file is opened, or when it is read.
type stuckFiles struct {
	wazerohook.FileCache
	opens  bool
	answer chan struct{}
}

func (s *stuckFiles) Get(wazerohook.WazeroKey) (io.ReadCloser, bool, error) {
	if s.opens {
		return io.NopCloser(s), true, nil
	}
	return nil, false, s.wait()
}

func (s *stuckFiles) Read([]byte) (int, error) { return 0, s.wait() }

func (s *stuckFiles) wait() error { <-s.answer; return errors.New("too late") }

// TestCacheDropInWhoseDirectoryHangs waits for wazero's own directory no longer than for a store.
func TestCacheDropInWhoseDirectoryHangs(t *testing.T) {
	for _, opens := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c, err := New(NewMemory(nil), &Options{EngineID: "test"})
			require.NoError(t, err)
			defer c.Close(t.Context())
			files := &stuckFiles{opens: opens, answer: make(chan struct{})}
			d := newDropIn(c, wazero.NewCompilationCache())
			d.directory = files
			start, ended := time.Now(), make(chan struct{})
			go func() {
				defer close(ended)
				require.Nil(t, d.takeOver(Key{}, wazerohook.WazeroKey{}))
			}()
			select {
			case <-ended:
			case <-time.After(time.Hour):
				t.Error("it hangs")
			}
			require.LessOrEqual(t, time.Since(start), unknownWait)
			require.EqualValues(t, 1, c.counters.storeErrors.Load())
			close(files.answer)
			<-ended
		})
	}
}

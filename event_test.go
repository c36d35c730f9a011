package modcache_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wasmtest"
)

func TestEventInWords(t *testing.T) {
	require.Equal(t, "hit", modcache.EventHit.String())
	require.Equal(t, "degraded", modcache.EventDegraded.String())
	require.Equal(t, "unknown", modcache.EventKind(0).String())
	require.Equal(t, "unknown", modcache.EventKind(200).String())
	require.Equal(t, "absent", modcache.ReasonAbsent.String())
	require.Equal(t, "expired", modcache.ReasonExpired.String())
	require.Equal(t, "unknown", modcache.Reason(200).String())
}

// TestEventObserversMayExit has observers of each store panic, or end the goroutine that they are called on, as FailNow of
// a test does: whoever uses the store doesn't notice.
func TestEventObserversMayExit(t *testing.T) {
	for how, end := range map[string]func(){"panic": func() { panic("injected") }, "exit": runtime.Goexit} {
		told := map[string]int{}
		var mu sync.Mutex
		observer := func(in string) func(modcache.Event) {
			return func(modcache.Event) {
				mu.Lock()
				told[in]++
				mu.Unlock()
				end()
			}
		}
		disk := openDisk(t, tempCacheDir(t), &modcache.DiskOptions{OnEvent: observer("disk")})
		disk.Observe(observer("Observe"))
		files, err := modcache.OpenFS(os.DirFS(disk.Dir()), &modcache.FSOptions{OnEvent: observer("fs")})
		require.NoError(t, err)
		small := modcache.MemoryOptions{MaxBytes: 1 << 20}
		small.OnEvent = observer("memory")
		memory := modcache.NewMemory(&small)
		small.OnEvent = observer("local")
		layers := modcache.NewLayered(&modcache.LayeredOptions{OnEvent: observer("layered")},
			modcache.Layer{Store: modcache.NewMemory(nil)}, modcache.Layer{Store: files, Write: modcache.WriteNever}, modcache.Layer{Store: openDisk(t, tempCacheDir(t), nil)})
		defer layers.Close()
		layers.Observe(observer("Observe"))
		done := 0
		stores := map[string]modcache.Store{"disk": disk, "fs": files, "memory": memory, "local": modcache.NewLocal(&small), "layered": layers}
		for _, name := range []string{"disk", "fs", "memory", "local", "layered"} {
			var using sync.WaitGroup
			using.Go(func() {
				s := stores[name]
				for i := range byte(3) {
					err := s.Add(bg, keyNo(i), modcache.NewArtifact(make([]byte, 1000<<10), modcache.Info{}))
					if name != "fs" {
						require.NoError(t, err)
					}
					a, ok, err := s.Get(bg, keyNo(i))
					require.NoError(t, err)
					require.True(t, ok || name == "fs", name)
					closeAll(a)
				}
				_, _, err := s.Get(bg, keyNo(9))
				require.NoError(t, err)
				require.NoError(t, s.Flush(bg))
				done++
			})
			using.Wait()
			require.NotZero(t, told[name], "%s %s", name, how)
		}
		require.Equal(t, len(stores), done, how)
		require.NotZero(t, told["Observe"])
	}
}

func closeAll(all ...*modcache.Artifact) {
	for _, a := range all {
		if a != nil {
			_ = a.Close()
		}
	}
}

func TestEventAsLogValue(t *testing.T) {
	require.Equal(t, "[event=hit]", fmt.Sprint(modcache.Event{Kind: modcache.EventHit}.LogValue()))
	e := modcache.Event{
		Kind: modcache.EventEvicted, Reason: modcache.ReasonByteLimit, Key: modcache.Key{0: 0xab}, Layer: "memory",
		Bytes: 7, Duration: time.Second, Err: errors.New("why"),
	}
	require.Equal(t, fmt.Sprintf("[event=evicted reason=byte limit key=%v layer=memory bytes=7 duration=1s error=why]", e.Key), fmt.Sprint(e.LogValue()))

	var out strings.Builder
	slog.New(slog.NewTextHandler(&out, nil)).Info("cache", "what", modcache.Event{Kind: modcache.EventMiss, Reason: modcache.ReasonIO})
	require.Contains(t, out.String(), `msg=cache what.event=miss what.reason="I/O error"`)
}

func TestReasonAsJSON(t *testing.T) {
	in := map[modcache.Reason]modcache.Reason{modcache.ReasonByteLimit: modcache.ReasonAuth}
	b, err := json.Marshal(in)
	require.NoError(t, err)
	require.JSONEq(t, `{"byte limit":"not authentic"}`, string(b))
	var out map[modcache.Reason]modcache.Reason
	require.NoError(t, json.Unmarshal(b, &out))
	require.Equal(t, in, out)
	var r modcache.Reason
	require.ErrorContains(t, r.UnmarshalText([]byte("bad luck")), `unknown reason "bad luck"`)
}

// TestEventInLogIsShort has modules whose names are in wazero's errors, which the caller and OnEvent get whole.
func TestEventInLogIsShort(t *testing.T) {
	needsCompiler(t)
	long := strings.Repeat("x", 1<<20)
	var log bytes.Buffer
	told := map[modcache.EventKind]int{}
	c := newCache(t, modcache.NewMemory(nil), &modcache.Options{
		Logger:  slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		OnEvent: func(e modcache.Event) { told[e.Kind] = len(fmt.Sprint(e.Err)) },
	})
	r := newRuntime(t, c, nil)

	var twice wasmtest.Module
	f := twice.Func(twice.Type(nil, nil), long)
	twice.Export(long, 0, f)
	_, err := r.CompileModule(bg, twice.Bytes())
	require.ErrorContains(t, err, long)
	require.Greater(t, told[modcache.EventCompileFinished], len(long))

	var traps wasmtest.Module
	traps.Func(traps.Type(nil, nil), "f", 0)
	name := slices.Concat([]byte{1, 0}, wasmtest.U32(uint32(len(long))), []byte(long)) // of function 0
	traps.Custom("name", slices.Concat([]byte{1}, wasmtest.U32(uint32(len(name))), name))
	_, err = r.NewTemplate(bg, modcache.NewModule(traps.Bytes()), &modcache.TemplateOptions{Init: func(ctx context.Context, mod api.Module) error {
		_, err := mod.ExportedFunction("f").Call(ctx)
		return err
	}})
	require.ErrorContains(t, err, long)
	require.Greater(t, told[modcache.EventSnapshotTaken], len(long))
	require.Greater(t, told[modcache.EventTemplateMade], len(long))

	require.Equal(t, 3, strings.Count(log.String(), "bytes more)"))
	require.Less(t, log.Len(), 20<<10)
}

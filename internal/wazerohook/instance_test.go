package wazerohook

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

func TestWatchSeesHowInstancesEnd(t *testing.T) {
	r := wazero.NewRuntime(bg)
	defer r.Close(bg)
	open := func() (api.Module, func() bool, chan bool) {
		mod, err := r.InstantiateWithConfig(bg, canary, wazero.NewModuleConfig().WithName(""))
		require.NoError(t, err)
		collected := make(chan bool, 1)
		return mod, Watch(mod, func() { collected <- true }), collected
	}
	mod, closed, collected := open()
	_, unclosed, _ := open()
	runtime.GC()
	require.False(t, closed())
	require.False(t, unclosed(), "the runtime has it")
	require.NoError(t, mod.Close(bg))
	require.True(t, closed())
	require.False(t, unclosed())
	runtime.KeepAlive(mod)
	mod = nil
	for {
		runtime.GC()
		select {
		case <-collected:
			require.True(t, closed())
			require.False(t, unclosed())
			return
		case <-time.After(time.Millisecond):
		}
	}
}

// valueModule is an instance that is no pointer.
type valueModule struct {
	api.Module
	end *bool
}

func (m valueModule) IsClosed() bool { return *m.end }

func TestWatchOfStrangers(t *testing.T) {
	end := false
	closed := Watch(valueModule{end: &end}, func() { t.Error("nothing tells") })
	require.False(t, closed())
	end = true
	require.True(t, closed())
}

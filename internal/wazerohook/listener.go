package wazerohook

import (
	"context"
	"sync"

	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
)

// Listeners returns the factory that ctx carries for the modules compiled under
// it, or nil.
func (w *Wazero) Listeners(ctx context.Context) experimental.FunctionListenerFactory {
	f, _ := ctx.Value(w.listenerKey).(experimental.FunctionListenerFactory)
	return f
}

// ListenerKey predicts the key of one compile with listeners. Which functions
// have one shows only while wazero asks the factory, so it stands between them.
type ListenerKey struct {
	experimental.FunctionListenerFactory

	mu   sync.Mutex
	have []bool
}

// NewFunctionListener implements [experimental.FunctionListenerFactory].
func (l *ListenerKey) NewFunctionListener(def api.FunctionDefinition) experimental.FunctionListener {
	listener := l.FunctionListenerFactory.NewFunctionListener(def)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.have = append(l.have, listener != nil)
	return listener
}

// Key returns the key that wazero asks for, now that it has asked the factory.
func (l *ListenerKey) Key(w *Wazero, wasm []byte, closeOnContextDone bool) WazeroKey {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fileKey(wasm, l.have, closeOnContextDone, w.CPU)
}

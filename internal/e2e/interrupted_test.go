package e2e

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wasmtest"
)

// looping returns a module whose export f does what the bytes say: it counts in two locals and
// a memory, in loops that may never end, each turn of which calls host.tick.
func looping(program []byte) []byte {
	var m wasmtest.Module
	tick := m.Import("host", "tick", m.Type(nil, nil))
	m.Memory(1)
	body := []byte{1, 2, wasmtest.I32} // two locals
	depth := 0
	for i := 0; i+1 < len(program) && len(body) < 4000; i += 2 {
		n := program[i+1]
		local, address := n%2, wasmtest.U32(uint32(n)*4)
		switch program[i] % 8 {
		case 0: // local += n
			body = append(body, 0x20, local, 0x41, n&0x3f, 0x6a, 0x21, local)
		case 1: // local = local*n ^ other
			body = append(body, 0x20, local, 0x41, n&0x3f, 0x6c, 0x20, 1-local, 0x73, 0x21, local)
		case 2: // memory[4n] = local
			body = append(append(body, 0x41, 0, 0x20, local, 0x36, 2), address...)
		case 3: // local += memory[4n]
			body = append(append(append(body, 0x20, local, 0x41, 0, 0x28, 2), address...), 0x6a, 0x21, local)
		case 4, 5: // a loop begins
			if depth < 10 {
				depth++
				body = append(body, 0x03, 0x40, 0x10, byte(tick))
			}
		case 6: // it goes on while local&n isn't 0
			if depth > 0 {
				body = append(body, 0x20, local, 0x41, n&0x3f, 0x71, 0x0d, n%byte(depth))
			}
		case 7: // it ends, or traps if local&n isn't 0
			if depth > 0 {
				depth--
				body = append(body, 0x0b)
			} else {
				body = append(body, 0x20, local, 0x41, n&0x3f, 0x71, 0x04, 0x40, 0x00, 0x0b)
			}
		}
	}
	body = append(body, bytes.Repeat([]byte{0x0b}, depth+1)...)
	m.Body(m.Type(nil, nil), "f", body)
	return m.Bytes()
}

// interrupted runs a module, whose instance is closed at one of its ticks, and returns all
// that can be seen of it.
func interrupted(t *testing.T, r wazero.Runtime, wasm []byte, at int) string {
	ticks := 0
	host := r.NewHostModuleBuilder("host")
	host.NewFunctionBuilder().WithFunc(func(ctx context.Context, m api.Module) {
		if ticks++; ticks == at {
			_ = m.CloseWithExitCode(ctx, 7)
		}
	}).Export("tick")
	_, err := host.Instantiate(t.Context())
	require.NoError(t, err)
	mod, err := r.InstantiateWithConfig(t.Context(), wasm, wazero.NewModuleConfig())
	require.NoError(t, err)
	memory := mod.Memory()
	_, err = mod.ExportedFunction("f").Call(t.Context())
	seen, _ := memory.Read(0, 1024)
	return fmt.Sprintf("%d ticks, error %v, memory %x", ticks, err, bytes.TrimRight(seen, "\x00"))
}

// FuzzRuntimeInterrupted compares runs that are interrupted at a fixed number of calls, with
// wazero's own. Real time would end any two runs at different places.
func FuzzRuntimeInterrupted(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		program := make([]byte, 2*rng.IntN(60))
		for i := range program {
			program[i] = byte(rng.Uint32())
		}
		f.Add(program, uint8(rng.Uint32()))
	}
	f.Fuzz(func(t *testing.T, program []byte, at uint8) {
		config := wazero.NewRuntimeConfig().WithCloseOnContextDone(true)
		wasm := looping(program)
		c, err := modcache.New(modcache.NewMemory(nil), nil)
		require.NoError(t, err)
		defer c.Close(t.Context())
		plain := wazero.NewRuntimeWithConfig(t.Context(), config)
		defer plain.Close(t.Context())
		want := interrupted(t, plain, wasm, int(at)+1)
		for range 2 { // cold and warm
			dropIn := wazero.NewRuntimeWithConfig(t.Context(), config.WithCompilationCache(c.CompilationCache()))
			ours, err := c.NewRuntime(t.Context(), config)
			require.NoError(t, err)
			for _, r := range []wazero.Runtime{dropIn, ours} {
				require.Equal(t, want, interrupted(t, r, wasm, int(at)+1))
				require.NoError(t, r.Close(t.Context()))
			}
		}
	})
}

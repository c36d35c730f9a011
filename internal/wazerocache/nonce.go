package wazerocache

import (
	"crypto/rand"
	"slices"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// nonceSection is a custom section that makes a module unlike any other in the engine.
const nonceSection = "modcache.nonce"

// WithNonce returns a copy of a module that no other compile has the bytes of. It puts a
// custom section behind the header, the one place where that can't make a module valid that isn't.
func WithNonce(wasm []byte) []byte {
	const header = 8
	if len(wasm) < header {
		return wasm
	}
	body := append([]byte{byte(len(nonceSection))}, nonceSection...)
	body = append(body, rand.Text()...)
	section := append([]byte{0, byte(len(body))}, body...)
	return slices.Concat(wasm[:header], section, wasm[header:])
}

// HideNonce returns the compiled module without the section of [WithNonce], which is the
// first. Others of that name are the guest's.
func HideNonce(cm wazero.CompiledModule) wazero.CompiledModule { return nonceless{cm} }

type nonceless struct{ wazero.CompiledModule }

func (n nonceless) CustomSections() []api.CustomSection {
	sections := n.CompiledModule.CustomSections()
	return sections[min(1, len(sections)):]
}

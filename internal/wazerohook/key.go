package wazerohook

import (
	"crypto/sha256"
	"encoding/binary"
)

// entryMagic opens every entry, and is mixed into its key.
const entryMagic = "WAZEVO"

// fileKey predicts the key that wazero's compiling engine asks its cache for.
// listeners has an element for each function of the module if it is compiled
// with a listener factory, saying whether the function has one. cpu is the word
// of CPU features that [Look] learnt.
func fileKey(wasm []byte, listeners []bool, closeOnContextDone bool, cpu uint64) WazeroKey {
	return keyOfID(moduleID(wasm, listeners, closeOnContextDone), cpu)
}

// moduleID is what wazero calls a module in memory.
func moduleID(wasm []byte, listeners []bool, closeOnContextDone bool) (id [32]byte) {
	h := sha256.New()
	h.Write(wasm)
	var b [5]byte
	for i, present := range listeners {
		binary.LittleEndian.PutUint32(b[:], uint32(i))
		b[4] = flag(present)
		h.Write(b[:])
	}
	h.Write([]byte{flag(closeOnContextDone)})
	h.Sum(id[:0])
	return id
}

func keyOfID(id [32]byte, cpu uint64) WazeroKey {
	b := append(id[:], entryMagic...)
	return sha256.Sum256(binary.LittleEndian.AppendUint64(b, cpu))
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}

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
// of CPU features that [Probe] learnt.
func fileKey(wasm []byte, listeners []bool, closeOnContextDone bool, cpu uint64) WazeroKey {
	h := sha256.New()
	h.Write(wasm)
	var b [5]byte
	for i, present := range listeners {
		binary.LittleEndian.PutUint32(b[:], uint32(i))
		b[4] = flag(present)
		h.Write(b[:])
	}
	h.Write([]byte{flag(closeOnContextDone)})

	id := h.Sum(nil)
	id = append(id, entryMagic...)
	id = binary.LittleEndian.AppendUint64(id, cpu)
	return sha256.Sum256(id)
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}

package wazerohook

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"slices"
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
	return endID(h, listeners, closeOnContextDone)
}

// endID hashes what follows the module.
func endID(h hash.Hash, listeners []bool, closeOnContextDone bool) (id [32]byte) {
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

// KeysOfStub predicts what wazero asks its cache for when it compiles a stub with so many functions
// as is intended, and what it asks for in some cases that are not: under the other setting of
// closeOnContextDone, and with a factory that has listeners for all or for none of the functions.
func (w *Wazero) KeysOfStub(wasm []byte, functions int, closeOnContextDone bool) (right WazeroKey, wrong []WazeroKey) {
	begun := sha256.New()
	begun.Write(wasm)
	key := func(listeners []bool, closeOnContextDone bool) WazeroKey {
		h, err := begun.(hash.Cloner).Clone()
		if err != nil {
			return fileKey(wasm, listeners, closeOnContextDone, w.CPU)
		}
		return keyOfID(endID(h, listeners, closeOnContextDone), w.CPU)
	}
	for _, end := range []bool{closeOnContextDone, !closeOnContextDone} {
		for _, listeners := range [][]bool{nil, slices.Repeat([]bool{true}, functions), slices.Repeat([]bool{false}, functions)} {
			wrong = append(wrong, key(listeners, end))
		}
	}
	return wrong[0], wrong[1:]
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

// Package frame is the byte format of an artifact in a store and on the wire: a
// header that binds everything known about the artifact, then its bytes in
// chunks.
//
// A frame is laid out like this, integers in little-endian order:
//
//	  0   8  magic "modcache"
//	  8   1  version of this format, 1
//	  9   1  codec: 0 raw, 1 zstd
//	 10   1  kind of authentication: 0 checksum, 1 keyed BLAKE3, 2 Ed25519
//	 11   1  binary logarithm of the chunk size, 12 to 22
//	 12   4  length of the header, from the magic to the end of the tag
//	 16   8  length of the artifact
//	 24   8  length of all encoded chunks
//	 32  32  key that the artifact is stored under
//	 64  32  fingerprint of the module, or zeros
//	 96   8  bytes of the module
//	104   8  nanoseconds that compiling took
//	112   8  second of creation, Unix time
//	120   4  nanosecond within that second
//	124   1  length of the engine identity
//	125   1  length of the module's name
//	126   2  zeros
//	128  16  id of the authentication key, or zeros
//	144   …  engine identity
//	  …      name of the module
//	  …      per chunk: digest of its encoded bytes, preceded by their
//	         length in 4 bytes if the codec isn't raw
//	  …      tag over all of the above
//	  …      encoded chunks, one after the other
//
// Digests are XXH3-128 (16 bytes) under a checksum and BLAKE3-256 (32) under a key.
// So are tags, but for the 64 bytes of an Ed25519 signature.
//
// The tag covers the digests, so that it covers the chunks, and chunks of
// two frames never mix. With the header first, any range of the artifact can be
// verified as it is read, and a stream chunk by chunk as it arrives.
//
// A reader trusts no length before it has compared it with the size of the
// file: no frame makes it allocate more than that size. As a sparse file may have
// any, it allocates no more than a few pages before it has verified the tag.
package frame

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// Errors of reading. A failure of the underlying reader is neither.
var (
	// ErrCorrupt means that the bytes are not those of a frame that was written
	// for the key. Package modcache exports these errors.
	ErrCorrupt = errors.New("corrupt entry")
	// ErrAuth means that the tag is not one of the expected key.
	ErrAuth = errors.New("entry is not authentic")
	// ErrForeign means that the frame was sealed in another way or under another
	// key than the reader has: it may well be what its writer wrote.
	ErrForeign = fmt.Errorf("%w: sealed under another key", ErrAuth)
	// ErrTooLarge means that the artifact is larger than the reader allows.
	ErrTooLarge = errors.New("artifact is too large")
)

// Meta is what a frame says about its artifact.
type Meta struct {
	Key         [32]byte
	Engine      string // at most 255 bytes
	Module      [32]byte
	Name        string // of the module, at most 255 bytes
	WasmSize    int64
	CompileTime time.Duration
	Created     time.Time // comes back in UTC, without a monotonic reading
}

// EntryEngine is the Engine of artifacts that are frames as servers keep them, so that no Cache
// takes them for machine code.
const EntryEngine = "modcache remote entry"

// codec is how chunks are encoded.
type codec uint8

const (
	raw codec = iota
	zstandard
)

const (
	magic        = "modcache"
	version      = 1
	fixedSize    = 144
	digestSize   = 32
	checksumSize = 16

	// defaultChunkLog is the binary logarithm of the usual chunk size. 256 KiB
	// stay in the second-level cache between the read and the hash.
	defaultChunkLog = 18
	minChunkLog     = 12
	maxChunkLog     = 22

	// MaxSize bounds the artifact's length, so that it fits an int, no sum of
	// lengths overflows and header lengths fit 32 bits.
	MaxSize = min(maxAnywhere, math.MaxInt)

	// maxAnywhere is MaxSize where addresses have 64 bits.
	maxAnywhere = 1 << 36
)

// header is a frame's header, decoded; it can be encoded again bit by bit.
type header struct {
	Meta
	codec    codec
	auth     Kind
	keyID    KeyID
	chunkLog uint8
	size     int64   // of the artifact
	encoded  int64   // of all chunks
	table    []byte  // one entry per chunk
	offsets  []int64 // where each encoded chunk starts after the header; nil if raw
}

func (h *header) chunks() int { return chunkCount(h.size, h.chunkLog) }

func chunkCount(size int64, chunkLog uint8) int {
	return int((size + 1<<chunkLog - 1) >> chunkLog)
}

// rawLen returns the decoded length of chunk i.
func (h *header) rawLen(i int) int {
	start := int64(i) << h.chunkLog
	return int(min(h.size-start, 1<<h.chunkLog))
}

// span returns where the encoded chunk i is, counted from the header's end.
func (h *header) span(i int) (off int64, n int) {
	if h.codec == raw {
		return int64(i) << h.chunkLog, h.rawLen(i)
	}
	end := h.encoded
	if i+1 < len(h.offsets) {
		end = h.offsets[i+1]
	}
	return h.offsets[i], int(end - h.offsets[i])
}

func (h *header) digest(i int) []byte {
	end := (i + 1) * entrySize(h.codec, h.auth)
	return h.table[end-h.auth.digestSize() : end]
}

// entrySize returns the length of what a header has for each chunk.
func entrySize(c codec, k Kind) int {
	if c == raw {
		return k.digestSize()
	}
	return 4 + k.digestSize()
}

// texts are the lengths of what a header has between its fixed part and its table.
type texts struct{ engine, name int }

func (t texts) len() int { return t.engine + t.name }

func (m *Meta) texts() texts { return texts{len(m.Engine), len(m.Name)} }

// headerSize returns the length of a header. The result is exact for sizes up
// to MaxSize.
func headerSize(t texts, size int64, chunkLog uint8, c codec, kind Kind) int64 {
	n := (size + 1<<chunkLog - 1) >> chunkLog
	return fixedSize + int64(t.len()) + n*int64(entrySize(c, kind)) + int64(kind.tagSize())
}

// appendTo encodes the header, without its tag.
func (h *header) appendTo(b []byte) []byte {
	le := binary.LittleEndian
	b = append(b, magic...)
	b = append(b, version, byte(h.codec), byte(h.auth), h.chunkLog)
	b = le.AppendUint32(b, uint32(headerSize(h.texts(), h.size, h.chunkLog, h.codec, h.auth)))
	b = le.AppendUint64(b, uint64(h.size))
	b = le.AppendUint64(b, uint64(h.encoded))
	b = append(b, h.Key[:]...)
	b = append(b, h.Module[:]...)
	b = le.AppendUint64(b, uint64(h.WasmSize))
	b = le.AppendUint64(b, uint64(h.CompileTime))
	b = le.AppendUint64(b, uint64(h.Created.Unix()))
	b = le.AppendUint32(b, uint32(h.Created.Nanosecond()))
	b = append(b, byte(len(h.Engine)), byte(len(h.Name)), 0, 0)
	b = append(b, h.keyID[:]...)
	b = append(b, h.Engine...)
	b = append(b, h.Name...)
	return append(b, h.table...)
}

// parseFixed decodes the part of the header that has a fixed length, and checks
// its lengths against each other. headerLen is at most 2^32.
func parseFixed(b []byte) (h *header, headerLen int64, t texts, err error) {
	if len(b) < fixedSize {
		return nil, 0, texts{}, fmt.Errorf("%w: %d bytes are too short for a header", ErrCorrupt, len(b))
	}
	le := binary.LittleEndian
	h = &header{
		codec:    codec(b[9]),
		auth:     Kind(b[10]),
		chunkLog: b[11],
		size:     int64(le.Uint64(b[16:])),
		encoded:  int64(le.Uint64(b[24:])),
	}
	headerLen = int64(le.Uint32(b[12:]))
	copy(h.Key[:], b[32:])
	copy(h.Module[:], b[64:])
	h.WasmSize = int64(le.Uint64(b[96:]))
	h.CompileTime = time.Duration(le.Uint64(b[104:]))
	nanos := le.Uint32(b[120:])
	h.Created = time.Unix(int64(le.Uint64(b[112:])), int64(nanos)).UTC()
	t = texts{engine: int(b[124]), name: int(b[125])}
	copy(h.keyID[:], b[128:])

	bad := func(what string) (*header, int64, texts, error) {
		return nil, 0, texts{}, fmt.Errorf("%w: %s", ErrCorrupt, what)
	}
	switch {
	case string(b[:8]) != magic:
		return bad("wrong magic")
	case b[8] != version:
		return bad(fmt.Sprintf("version %d, want %d", b[8], version))
	case h.codec > zstandard:
		return bad(fmt.Sprintf("unknown codec %d", h.codec))
	case h.auth > Ed25519:
		return bad(fmt.Sprintf("unknown authentication kind %d", h.auth))
	case h.chunkLog < minChunkLog || h.chunkLog > maxChunkLog:
		return bad("chunk size out of range")
	case h.size > MaxSize && h.size <= maxAnywhere && h.size == h.encoded:
		return nil, 0, texts{}, fmt.Errorf("%w: %d bytes, for which this process has no addresses", ErrTooLarge, h.size)
	case h.size < 0 || h.size > MaxSize || h.encoded < 0 || h.encoded > h.size:
		return bad("length out of range")
	case h.codec == raw && h.encoded != h.size:
		return bad("lengths differ without compression")
	case nanos >= 1e9 || b[126]|b[127] != 0:
		return bad("field out of range")
	case headerLen != headerSize(t, h.size, h.chunkLog, h.codec, h.auth):
		return bad("wrong header length")
	}
	return h, headerLen, t, nil
}

// parse decodes a whole header, whose tag has been verified, into h.
func (h *header) parse(b []byte, t texts) error {
	b = b[fixedSize:]
	h.Engine, h.Name = string(b[:t.engine]), string(b[t.engine:t.len()])
	h.table = b[t.len() : len(b)-h.auth.tagSize()]
	if h.codec == raw {
		return nil
	}
	h.offsets = make([]int64, h.chunks())
	var off int64
	for i := range h.offsets {
		h.offsets[i] = off
		n := int64(binary.LittleEndian.Uint32(h.table[i*entrySize(h.codec, h.auth):]))
		if want := int64(h.rawLen(i)); n > want || n*maxRatio < want {
			return fmt.Errorf("%w: chunk %d of %d bytes is encoded as %d", ErrCorrupt, i, want, n)
		}
		off += n
	}
	if off != h.encoded {
		return fmt.Errorf("%w: chunks of %d bytes, want %d", ErrCorrupt, off, h.encoded)
	}
	return nil
}

// check compares the encoded chunk i with its digest.
func (h *header) check(i int, encoded []byte) error {
	var sum [digestSize]byte
	if !bytes.Equal(h.auth.appendDigest(sum[:0], encoded), h.digest(i)) {
		return fmt.Errorf("%w: wrong digest of chunk %d", ErrCorrupt, i)
	}
	return nil
}

// decode fills dst with chunk i. Nothing is decoded before its digest was
// checked.
func (h *header) decode(z *Compressor, i int, dst, encoded []byte) error {
	if err := h.check(i, encoded); err != nil || len(encoded) == len(dst) {
		return err
	}
	return z.decode(dst, encoded)
}

// Check reports what a header can't hold. [Write] does it too.
func (m Meta) Check(size int64) error {
	switch {
	case len(m.Engine) > math.MaxUint8:
		return fmt.Errorf("engine identity of %d bytes, at most 255 fit", len(m.Engine))
	case len(m.Name) > math.MaxUint8:
		return fmt.Errorf("name of %d bytes, at most 255 fit", len(m.Name))
	case size < 0 || size > MaxSize:
		return fmt.Errorf("artifact of %d bytes, at most %d fit", size, int64(MaxSize))
	}
	return nil
}

package remote

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/modcache/modcache"
)

// BazelCAS is the HTTP protocol of Bazel remote caches as Bazel itself uses it:
// <URL>/ac/<key> holds an action result that names the entry, which is at
// <URL>/cas/<SHA-256 of the entry>. Every such server takes it. What the action
// cache says is believed no more than the entry.
const BazelCAS = bazelCAS(0)

type bazelCAS uint8

func (bazelCAS) backend(w *web) (Backend, error) { return &bazel{w}, nil }
func (bazelCAS) kind() string                    { return "bazel-cas" }

type bazel struct{ w *web }

// maxAction bounds an action result: ours have some 150 bytes.
const maxAction = 64 << 10

func (b *bazel) action(key modcache.Key) request {
	return request{url: b.w.base.JoinPath("ac", key.String())}
}

func (b *bazel) blob(d digest) request {
	return request{url: b.w.base.JoinPath("cas", hex.EncodeToString(d.hash[:]))}
}

func (b *bazel) Get(ctx context.Context, key modcache.Key) (io.ReadCloser, error) {
	d, err := b.find(ctx, key)
	if err != nil {
		return nil, err
	}
	if d.size > b.w.max {
		return nil, fmt.Errorf("%w: an entry of %d bytes", modcache.ErrTooLarge, d.size)
	}
	return b.w.get(ctx, b.blob(d))
}

// find returns the digest of the entry. An action result of somebody else's is as good
// as none.
func (b *bazel) find(ctx context.Context, key modcache.Key) (digest, error) {
	body, err := b.w.get(ctx, b.action(key))
	if err != nil {
		return digest{}, err
	}
	defer body.Close()
	msg, err := io.ReadAll(io.LimitReader(body, maxAction+1))
	if err != nil {
		return digest{}, fmt.Errorf("action result: %w", err)
	}
	d, err := parseAction(msg)
	if err != nil {
		return digest{}, fmt.Errorf("action result: %w: %w", err, fs.ErrNotExist)
	}
	return d, nil
}

// Has asks for the action and then the entry: servers evict them separately.
func (b *bazel) Has(ctx context.Context, key modcache.Key) (bool, error) {
	d, err := b.find(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return b.w.has(ctx, b.blob(d))
}

// Put writes the entry before the action that names it.
func (b *bazel) Put(ctx context.Context, key modcache.Key, entry []byte, _ bool) error {
	d := digest{hash: sha256.Sum256(entry), size: int64(len(entry))}
	r := b.blob(d)
	r.body = entry
	if err := b.w.put(ctx, r); err != nil {
		return err
	}
	r = b.action(key)
	r.body = appendAction(nil, d)
	return b.w.put(ctx, r)
}

// Delete drops the action. Servers that don't allow that say so.
func (b *bazel) Delete(ctx context.Context, key modcache.Key) error {
	return b.w.remove(ctx, b.action(key))
}

// digest names an entry in the content-addressed store.
type digest struct {
	hash [sha256.Size]byte
	size int64
}

// entryPath is what the one output file of our actions is called.
const entryPath = "modcache"

// Of the message ActionResult, these fields are written, and read:
//
//	ActionResult: 2 output_files; OutputFile: 1 path, 2 digest; Digest: 1 hash, 2 size_bytes

func appendAction(b []byte, d digest) []byte {
	var sum []byte
	sum = appendBytes(sum, 1, []byte(hex.EncodeToString(d.hash[:])))
	sum = binary.AppendUvarint(append(sum, 2<<3), uint64(d.size))
	var file []byte
	file = appendBytes(file, 1, []byte(entryPath))
	file = appendBytes(file, 2, sum)
	return appendBytes(b, 2, file)
}

func appendBytes(b []byte, field byte, v []byte) []byte {
	b = binary.AppendUvarint(append(b, field<<3|2), uint64(len(v)))
	return append(b, v...)
}

var errAction = errors.New("not one of ours")

func parseAction(msg []byte) (digest, error) {
	file := field(msg, 2)
	sum := field(file.bytes, 2)
	size := field(sum.bytes, 2).number
	hash, err := hex.DecodeString(string(field(sum.bytes, 1).bytes))
	if err != nil || len(hash) != sha256.Size || size > 1<<62 || len(msg) > maxAction {
		return digest{}, errAction
	}
	return digest{[sha256.Size]byte(hash), int64(size)}, nil
}

// value is a field of a protocol buffer message.
type value struct {
	number uint64
	bytes  []byte
}

// field returns the first field of that number. It is zero if msg has none, or isn't a
// sound message up to it.
func field(msg []byte, number uint64) (v value) {
	for len(msg) > 0 {
		tag, n := binary.Uvarint(msg)
		if n <= 0 {
			return value{}
		}
		msg = msg[n:]
		v = value{}
		var size uint64
		switch tag & 7 {
		case 0:
			v.number, n = binary.Uvarint(msg)
			size = uint64(n)
		case 1:
			size = 8
		case 2:
			size, n = binary.Uvarint(msg)
			msg = msg[max(n, 0):]
		case 5:
			size = 4
		default:
			return value{}
		}
		if n <= 0 || size > uint64(len(msg)) {
			return value{}
		}
		if tag&7 == 2 {
			v.bytes = msg[:size]
		}
		msg = msg[size:]
		if tag>>3 == number {
			return v
		}
	}
	return value{}
}

package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"github.com/zeebo/blake3"
	"github.com/zeebo/xxh3"

	"github.com/modcache/modcache"
)

// readAsDocumented reads an entry by docs/format.md alone.
func readAsDocumented(b []byte, secret []byte) (key, fingerprint [32]byte, engine string, artifact []byte, err error) {
	le := binary.LittleEndian
	fail := func(format string, args ...any) ([32]byte, [32]byte, string, []byte, error) {
		return key, fingerprint, "", nil, fmt.Errorf(format, args...)
	}
	if string(b[:8]) != "modcache" || b[8] != 1 {
		return fail("magic or version")
	}
	compressed, auth, chunk := b[9] == 1, b[10], 1<<b[11]
	headerLen, size, encoded := int(le.Uint32(b[12:])), int(le.Uint64(b[16:])), int(le.Uint64(b[24:]))
	copy(key[:], b[32:])
	copy(fingerprint[:], b[64:])
	engineLen := int(b[124])
	nameLen := int(b[125])
	digest := func(b []byte) []byte {
		sum := blake3.Sum256(b)
		return sum[:]
	}
	if auth == 0 {
		digest = func(b []byte) []byte {
			sum := xxh3.Hash128(b)
			return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, sum.Hi), sum.Lo)
		}
	}
	chunks, tagLen := (size+chunk-1)/chunk, len(digest(nil))
	row := tagLen
	if compressed {
		row += 4
	}
	if headerLen != 144+engineLen+nameLen+chunks*row+tagLen || headerLen+encoded != len(b) {
		return fail("lengths")
	}
	engine = string(b[144 : 144+engineLen])
	head, tag := b[:headerLen-tagLen], b[headerLen-tagLen:headerLen]
	want := digest(head)
	if auth == 1 {
		var derived, id [32]byte
		blake3.DeriveKey("modcache 2026-11-20 frame header MAC key", secret, derived[:])
		blake3.DeriveKey("modcache 2026-11-20 frame key id", derived[:], id[:16])
		if string(id[:16]) != string(b[128:144]) {
			return fail("key id")
		}
		h, _ := blake3.NewKeyed(derived[:])
		_, _ = h.Write(head)
		want = h.Sum(nil)
	}
	if string(want) != string(tag) {
		return fail("tag")
	}
	table, rest := b[144+engineLen+nameLen:headerLen-tagLen], b[headerLen:]
	decoder, _ := zstd.NewReader(nil)
	defer decoder.Close()
	for i := range chunks {
		raw := min(chunk, size-i*chunk)
		n := raw
		entry := table[i*row : (i+1)*row]
		if compressed {
			n, entry = int(le.Uint32(entry)), entry[4:]
		}
		part := rest[:n]
		rest = rest[n:]
		if string(digest(part)) != string(entry) {
			return fail("digest of chunk %d", i)
		}
		if n != raw {
			if part, err = decoder.DecodeAll(part, nil); err != nil || len(part) != raw {
				return fail("chunk %d: %v", i, err)
			}
		}
		artifact = append(artifact, part...)
	}
	return key, fingerprint, engine, artifact, nil
}

// TestFormatIsDocumented reads what the command writes by docs/format.md.
func TestFormatIsDocumented(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("0123456789abcdef"), 0o600))
	own, err := modcache.EngineID()
	require.NoError(t, err)
	first, second := spellings(t)
	for _, flags := range [][]string{nil, {"-compress"}, {"-key-file", secret}} {
		cache := filepath.Join(t.TempDir(), "cache")
		call(append([]string{"warm", "-jobs", "1", "-dir", cache, first, second}, flags...)...).want(t, exitOK)
		aliases := 0
		for _, file := range entries(t, cache) {
			b, err := os.ReadFile(file)
			require.NoError(t, err)
			key, fingerprint, engine, artifact, err := readAsDocumented(b, []byte("0123456789abcdef"))
			require.NoError(t, err)
			require.Equal(t, modcache.Key(key).String()+".v1", filepath.Base(file))
			require.Equal(t, file[len(cache)+1:len(cache)+2], filepath.Base(file)[:1])
			require.Equal(t, own, engine)

			content, seal := artifact[:len(artifact)-32], artifact[len(artifact)-32:]
			h := blake3.New()
			_, _ = h.Write(key[:])
			_, _ = h.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(engine))))
			_, _ = h.WriteString(engine)
			_, _ = h.Write(content)
			require.Equal(t, h.Sum(nil), seal)

			if target, ok := strings.CutPrefix(string(content), "modcache alias 1\x00"); ok {
				aliases++
				require.Equal(t, string(fingerprint[:]), target)
				require.Zero(t, binary.LittleEndian.Uint64(b[96:]))
			} else {
				require.True(t, strings.HasPrefix(string(content), "WAZEVO"))
			}
		}
		require.Equal(t, 2, aliases)
		tag, err := os.ReadFile(filepath.Join(cache, "CACHEDIR.TAG"))
		require.NoError(t, err)
		require.Contains(t, string(tag), "github.com/modcache/modcache")
	}
}

// Package filecache measures modcache.Disk beside the directory cache of wazero,
// which no program can call by itself, on the same bytes.
//
//	go test -run xxx -bench Add -benchtime 20x
//	go test -run xxx -bench 'Get|Miss' -benchtime 100ms
package filecache

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/modcache/modcache"
	"github.com/tetratelabs/wazero/internal/filecache"
)

var ctx = context.Background()

func name(i int) (key [32]byte) {
	binary.LittleEndian.PutUint64(key[:], uint64(i))
	return key
}

func code(size int) []byte {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

// disk opens a store that doesn't evict: file systems are slow to use again what
// was just freed.
func disk(b *testing.B, sync bool) *modcache.Disk {
	d, err := modcache.OpenDisk(newDir(b), &modcache.DiskOptions{MaxBytes: -1, MinFree: -1, SyncEveryAdd: sync})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = d.Close() })
	// What only the first Add has to do isn't measured, on either side.
	check(b, true, d.Add(ctx, first, modcache.NewArtifact(code(1), modcache.Info{})))
	return d
}

// newDir returns a new directory. In a run that says where and cleans up itself, its
// files stay, but empty: ext4 passes over inodes that were deleted within minutes,
// one by one, when it makes a file. After some thousands, that takes a millisecond.
func newDir(b *testing.B) string {
	parent := os.Getenv("BENCH_DIR")
	if parent == "" {
		return b.TempDir()
	}
	dir, err := os.MkdirTemp(parent, "")
	check(b, true, err)
	b.Cleanup(func() {
		check(b, true, filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			return os.Truncate(name, 0)
		}))
	})
	return dir
}

func directory(b *testing.B) filecache.Cache {
	c := filecache.New(newDir(b))
	check(b, true, c.Add(first, bytes.NewReader(code(1))))
	return c
}

var first = name(-1)

func check(b *testing.B, ok bool, err error) {
	if err != nil || !ok {
		b.Fatal(ok, err)
	}
}

type size struct {
	name  string
	bytes int
}

var (
	addSizes = []size{{"16 KiB", 16 << 10}, {"2 MiB", 2 << 20}, {"16 MiB", 16 << 20}}
	getSizes = []size{{"1 KiB", 1 << 10}, {"4 KiB", 4 << 10}, {"16 KiB", 16 << 10}, {"2 MiB", 2 << 20}, {"16 MiB", 16 << 20}, {"66 MB", 66_000_000}}
)

// BenchmarkAdd adds new entries. wazero waits for the storage device each time,
// as modcache does only if it is asked to.
func BenchmarkAdd(b *testing.B) {
	for _, size := range addSizes {
		content := code(size.bytes)
		b.Run(size.name+"/wazero", func(b *testing.B) {
			c := directory(b)
			b.SetBytes(int64(len(content)))
			for i := 0; b.Loop(); i++ {
				check(b, true, c.Add(name(i), bytes.NewReader(content)))
			}
		})
		for _, sync := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/modcache.Disk%s", size.name, map[bool]string{true: " synced"}[sync]), func(b *testing.B) {
				d := disk(b, sync)
				a := modcache.NewArtifact(content, modcache.Info{Engine: "bench"})
				b.SetBytes(int64(len(content)))
				for i := 0; b.Loop(); i++ {
					check(b, true, d.Add(ctx, name(i), a))
				}
			})
		}
	}
}

// BenchmarkGet reads an entry into a buffer that is there already. modcache
// verifies what it reads; wazero checks parts of it later.
func BenchmarkGet(b *testing.B) {
	for _, size := range getSizes {
		content := code(size.bytes)
		buffer := make([]byte, len(content))
		b.Run(size.name+"/wazero", func(b *testing.B) {
			c := directory(b)
			check(b, true, c.Add(name(0), bytes.NewReader(content)))
			b.SetBytes(int64(len(content)))
			for b.Loop() {
				r, ok, err := c.Get(name(0))
				check(b, ok, err)
				_, err = io.ReadFull(r, buffer)
				check(b, true, err)
				_ = r.Close()
			}
		})
		b.Run(size.name+"/modcache.Disk", func(b *testing.B) {
			d := disk(b, false)
			check(b, true, d.Add(ctx, name(0), modcache.NewArtifact(content, modcache.Info{Engine: "bench"})))
			b.SetBytes(int64(len(content)))
			for b.Loop() {
				a, ok, err := d.Get(ctx, name(0))
				check(b, ok, err)
				_, err = a.ReadAt(buffer, 0)
				check(b, true, err)
				_ = a.Close()
			}
		})
	}
}

// BenchmarkMiss asks for what isn't there.
func BenchmarkMiss(b *testing.B) {
	b.Run("wazero", func(b *testing.B) {
		c := directory(b)
		for b.Loop() {
			_, _, _ = c.Get(name(0))
		}
	})
	b.Run("modcache.Disk", func(b *testing.B) {
		d := disk(b, false)
		for b.Loop() {
			_, _, _ = d.Get(ctx, name(0))
		}
	})
}

package modcache_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
)

func BenchmarkDiskGet(b *testing.B) {
	for _, size := range []int{1 << 10, 4 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("size=%dKiB/modcache", size>>10), func(b *testing.B) {
			d := openDisk(b, b.TempDir(), nil)
			require.NoError(b, d.Add(bg, diskKey(1), diskArtifact(1, size)))
			buf := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				a, _, _ := d.Get(bg, diskKey(1))
				if _, err := a.ReadAt(buf, 0); err != nil {
					b.Fatal(err)
				}
				_ = a.Close()
			}
		})
		b.Run(fmt.Sprintf("size=%dKiB/os.File", size>>10), func(b *testing.B) {
			name := filepath.Join(b.TempDir(), "file")
			require.NoError(b, os.WriteFile(name, diskCode(1, size), 0o600))
			buf := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				f, err := os.Open(name)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(f, buf); err != nil {
					b.Fatal(err)
				}
				_ = f.Close()
			}
		})
	}
}

func BenchmarkDiskMiss(b *testing.B) {
	d := openDisk(b, b.TempDir(), nil)
	b.ReportAllocs()
	for b.Loop() {
		_, _, _ = d.Get(bg, diskKey(1))
	}
}

// BenchmarkDiskRead reads an artifact of 66 MB into a buffer that is there
// already, verified and not.
func BenchmarkDiskRead(b *testing.B) {
	const size = 66_000_000
	code := diskCode(1, size)
	for name, o := range map[string]*modcache.DiskOptions{
		"verified": nil, "sealed": {Key: []byte("0123456789abcdef")}, "zstd": {Compress: true},
	} {
		b.Run(name, func(b *testing.B) {
			d := openDisk(b, b.TempDir(), o)
			require.NoError(b, d.Add(bg, diskKey(1), modcache.NewArtifact(code, diskInfo)))
			buf := make([]byte, size)
			b.SetBytes(size)
			for b.Loop() {
				a, _, _ := d.Get(bg, diskKey(1))
				if _, err := a.ReadAt(buf, 0); err != nil {
					b.Fatal(err)
				}
				_ = a.Close()
			}
		})
	}
	b.Run("os.File", func(b *testing.B) {
		name := filepath.Join(b.TempDir(), "file")
		require.NoError(b, os.WriteFile(name, code, 0o600))
		buf := make([]byte, size)
		b.SetBytes(size)
		for b.Loop() {
			f, err := os.Open(name)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(f, buf); err != nil {
				b.Fatal(err)
			}
			_ = f.Close()
		}
	})
}

// BenchmarkDiskAdd compares with writing a file, syncing and renaming it,
// which is what wazero's directory cache does.
func BenchmarkDiskAdd(b *testing.B) {
	for _, size := range []int{2 << 10, 2 << 20, 16 << 20} {
		code := modcache.NewArtifact(diskCode(1, size), diskInfo)
		for name, o := range map[string]*modcache.DiskOptions{
			// Without evictions: file systems are slow to reuse what was just freed.
			"modcache": {MaxBytes: -1}, "modcache+sync": {MaxBytes: -1, SyncEveryAdd: true},
		} {
			b.Run(fmt.Sprintf("size=%dKiB/%s", size>>10, name), func(b *testing.B) {
				d := openDisk(b, b.TempDir(), o)
				b.SetBytes(int64(size))
				var n uint64
				for b.Loop() {
					n++
					if err := d.Add(bg, diskKey(n), code); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		b.Run(fmt.Sprintf("size=%dKiB/sync+rename", size>>10), func(b *testing.B) {
			dir := b.TempDir()
			bytes, _ := code.Bytes()
			b.SetBytes(int64(size))
			var n uint64
			for b.Loop() {
				n++
				f, err := os.CreateTemp(dir, "*")
				if err != nil {
					b.Fatal(err)
				}
				if _, err := f.Write(bytes); err != nil {
					b.Fatal(err)
				}
				if err := f.Sync(); err != nil {
					b.Fatal(err)
				}
				_ = f.Close()
				if err := os.Rename(f.Name(), filepath.Join(dir, diskKey(n).String())); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkDiskOpen opens directories of different sizes, which must not matter.
func BenchmarkDiskOpen(b *testing.B) {
	for _, entries := range []int{0, 10_000} {
		b.Run(fmt.Sprintf("entries=%d", entries), func(b *testing.B) {
			dir := b.TempDir()
			d := openDisk(b, dir, nil)
			for i := range entries {
				require.NoError(b, d.Add(bg, diskKey(uint64(i)), diskArtifact(1, 10)))
			}
			_, err := d.Trim(bg)
			require.NoError(b, err)
			for b.Loop() {
				d, err := modcache.OpenDisk(dir, nil)
				if err != nil {
					b.Fatal(err)
				}
				_ = d.Close()
			}
		})
	}
}

// BenchmarkDiskFirstAdd is what a process pays that adds one small entry to a directory of many, which an
// earlier one has noted the size of, or not.
func BenchmarkDiskFirstAdd(b *testing.B) {
	for _, entries := range []int{100, 10_000} {
		dir := b.TempDir()
		d := openTrimmed(b, dir, nil)
		for i := range entries {
			require.NoError(b, d.Add(bg, diskKey(uint64(i)), diskArtifact(1, 10)))
		}
		require.NoError(b, d.Close())
		for _, noted := range []bool{true, false} {
			b.Run(fmt.Sprintf("entries=%d/noted=%v", entries, noted), func(b *testing.B) {
				key := diskKey(1 << 32)
				for b.Loop() {
					b.StopTimer()
					if !noted {
						require.NoError(b, os.Remove(filepath.Join(dir, "trimmed")))
					}
					b.StartTimer()
					d, err := modcache.OpenDisk(dir, nil)
					require.NoError(b, err)
					require.NoError(b, d.Add(bg, key, diskArtifact(1, 10)))
					b.StopTimer()
					_, err = d.Trim(bg)
					require.NoError(b, err)
					require.NoError(b, d.Delete(bg, key))
					require.NoError(b, d.Close())
					b.StartTimer()
				}
			})
		}
	}
}

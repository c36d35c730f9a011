package modcache_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/modcache/modcache"
)

func ExampleOpenDisk() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "modcache")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	disk, err := modcache.OpenDisk(dir, &modcache.DiskOptions{MaxBytes: 512 << 20})
	if err != nil {
		log.Fatal(err)
	}
	defer disk.Close()

	key := modcache.Key(modcache.Sum([]byte("a module, an engine and a configuration")))
	if err := disk.Add(ctx, key, modcache.NewArtifact([]byte("machine code"), modcache.Info{Engine: "example"})); err != nil {
		log.Fatal(err)
	}
	code, ok, err := disk.Get(ctx, key)
	if err != nil || !ok {
		log.Fatal(ok, err)
	}
	defer code.Close()
	b, err := code.Bytes()
	fmt.Printf("%s by %s, %v\n", b, code.Info().Engine, err)
	// Output: machine code by example, <nil>
}

func ExampleDisk_DurabilityReport() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "modcache")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	disk, err := modcache.OpenDisk(dir, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer disk.Close()

	_ = disk.Add(ctx, modcache.Key{1}, modcache.NewArtifact([]byte("machine code"), modcache.Info{}))
	r := disk.DurabilityReport()
	fmt.Println(r.Pending, r.Durable)
	if err := disk.Flush(ctx); err != nil {
		log.Fatal(err)
	}
	r = disk.DurabilityReport()
	fmt.Println(r.Pending, r.Durable)
	// Output:
	// 1 false
	// 0 true
}

func ExampleDisk_Trim() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "modcache")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	now := time.Now()
	disk, err := modcache.OpenDisk(dir, &modcache.DiskOptions{
		MaxAge: 30 * time.Minute,
		Now:    func() time.Time { return now },
	})
	if err != nil {
		log.Fatal(err)
	}
	_ = disk.Add(ctx, modcache.Key{1}, modcache.NewArtifact([]byte("machine code"), modcache.Info{}))
	if err := disk.Close(); err != nil {
		log.Fatal(err)
	}

	later := now.Add(45 * time.Minute)
	disk, err = modcache.OpenDisk(dir, &modcache.DiskOptions{
		MaxAge: 30 * time.Minute,
		Now:    func() time.Time { return later },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer disk.Close()
	r, err := disk.Trim(ctx)
	fmt.Println(r.Evicted, r.Entries, err)
	// Output: 1 0 <nil>
}

func ExampleDisk_Verify() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "modcache")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	disk, err := modcache.OpenDisk(dir, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer disk.Close()
	_ = disk.Add(ctx, modcache.Key{1}, modcache.NewArtifact([]byte("machine code"), modcache.Info{}))

	r, err := disk.Verify(ctx)
	fmt.Println(r.Entries, len(r.Corrupt), err)
	// Output: 1 0 <nil>
}

func ExampleDisk_Walk() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "modcache")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	disk, err := modcache.OpenDisk(dir, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer disk.Close()
	info := modcache.Info{Engine: "example", CompileTime: 3 * time.Second}
	_ = disk.Add(ctx, modcache.Key{1}, modcache.NewArtifact([]byte("machine code"), info))

	for e, err := range disk.Walk(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(e.Size, e.Info.Engine, e.Info.CompileTime)
	}
	// Output: 12 example 3s
}

func ExampleDisk_Lock() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "modcache")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	disk, err := modcache.OpenDisk(dir, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer disk.Close()

	key := modcache.Key{1}
	unlock, err := disk.Lock(ctx, key)
	if err == nil {
		defer unlock()
	}
	// Whether or not the lock was to be had: look again, then compile.
	_, ok, _ := disk.Get(ctx, key)
	fmt.Println(ok)
	// Output: false
}

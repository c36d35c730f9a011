package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/modcache/modcache/bench/internal/report"
	"github.com/modcache/modcache/internal/wasmtest"
)

var plugins = part{
	name:  "plugins",
	title: "Many modules at start",
	about: "A host that compiles all of its plugins in a new process, one after the other in one runtime, and keeps them:\n" +
		"opening the cache and reading the modules' files are included. The plugins are modules of 1 to 5 MB, each made\n" +
		"unlike the others by a custom section.",
	run: runPlugins,
}

// host is what one process is asked to do.
type host struct {
	Door  int // of doors
	Files []string
	Dir   string
}

func hostOnce(ctx context.Context, h host) (started, error) {
	begin := time.Now()
	r, _, err := doors[h.Door].open(ctx, h.Dir, nil)
	if err != nil {
		return started{}, err
	}
	for _, file := range h.Files {
		wasm, err := os.ReadFile(file)
		if err != nil {
			return started{}, err
		}
		if _, err := r.CompileModule(ctx, wasm); err != nil {
			return started{}, err
		}
	}
	return started{time.Since(begin).Seconds() * 1e3, peakMB()}, nil
}

// pluginFiles makes n modules of those that are measured elsewhere.
func (b *bench) pluginFiles(n int) (files []string, err error) {
	found, err := b.modules()
	if err != nil {
		return nil, err
	}
	var images [][]byte
	for _, m := range found {
		if m.Size > 5e6 {
			continue
		}
		wasm, err := os.ReadFile(m.File)
		if err != nil {
			return nil, err
		}
		images = append(images, wasm)
	}
	if images == nil {
		return nil, fmt.Errorf("no module has up to 5 MB")
	}
	dir, err := b.dir()
	if err != nil {
		return nil, err
	}
	for i := range n {
		file := filepath.Join(dir, fmt.Sprintf("plugin-%d.wasm", i))
		wasm := slices.Concat(images[i%len(images)], wasmtest.CustomSection("plugin", []byte{byte(i)}))
		if err := os.WriteFile(file, wasm, 0o600); err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	return files, nil
}

func runPlugins(ctx context.Context, b *bench) ([]report.Case, error) {
	files, err := b.pluginFiles(b.pick(3, 19))
	if err != nil {
		return nil, err
	}
	dir, err := b.dir()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	warm := report.Case{Name: fmt.Sprintf("%d plugins", len(files)), Unit: "ms", Reference: directory, Chart: true, Headline: true}
	peak := report.Case{Name: warm.Name + ", peak RSS", Unit: "MB", Reference: directory}
	const from, to = 1, 4 // the doors that one runtime may have many modules behind
	for round := range b.pick(2, 16) {
		for _, i := range turn(round, to-from) {
			d := doors[from+i]
			s, _, err := child[started](ctx, "host", host{from + i, files, dir})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", d.name, err)
			}
			if round == 0 {
				continue // it filled the caches
			}
			warm.Add(d.name, d.role, s.Milliseconds)
			if s.PeakMB > 0 {
				peak.Add(d.name, d.role, s.PeakMB)
			}
		}
	}
	return []report.Case{warm, peak}, nil
}

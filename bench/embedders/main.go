// Command embedders measures programs that embed wazero through a library, from nothing to the
// result of a first call, in new processes: without a cache, with wazero's own directory, and with modcache.
//
//	go run .                          # everything, in five minutes; prints a Markdown table
//	go run . -n 3 -only extism        # embedders whose names contain that, three rounds
//	go run . -sides Runtime,drop-in   # beside wazero's directory, which is always there
//	go run . -program /tmp/p          # builds that once, and uses it again: delete it after a change
//
// The libraries are built with package swap in place of wazero's constructors of runtimes, so that
// each side can be tried in each library, whatever that lets its users choose. What it does let
// them choose, docs/embedders.md says, and tests try.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == childFlag {
		if err := childMain(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "embedders:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	n := flag.Int("n", 9, "rounds; each starts every side once, but that without a cache only the first three times")
	only := flag.String("only", "", "embedders whose names contain one of these, separated by commas")
	with := flag.String("sides", "", "sides by name, separated by commas (default all)")
	program := flag.String("program", "", "keep the program that is measured in this file, and use it if it is there")
	flag.Parse()
	tmp, err := os.MkdirTemp("", "modcache-embedders-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	b := bench{tmp: tmp, program: *program}
	if b.program == "" {
		b.program = filepath.Join(tmp, "embedders.exe")
	}
	if _, err := os.Stat(b.program); err != nil {
		if err := build(ctx, tmp, b.program); err != nil {
			return err
		}
	}
	selected := slices.DeleteFunc(slices.Clone(sides), func(s side) bool {
		return *with != "" && s.name != directory && !slices.Contains(strings.Split(*with, ","), s.name)
	})
	fmt.Printf("Medians of %d rounds, ms.\n\n", *n)
	header(os.Stdout)
	var failed []error
	for _, e := range embedders {
		if !slices.ContainsFunc(strings.Split(*only, ","), func(part string) bool { return strings.Contains(e.name, part) }) {
			continue
		}
		rounds, err := b.measure(ctx, e, selected, *n)
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", e.name, err)
			failed = append(failed, errors.New(e.name))
			continue
		}
		table(os.Stdout, e.name, selected, rounds)
	}
	if failed != nil {
		return fmt.Errorf("failed: %w", errors.Join(failed...))
	}
	return ctx.Err()
}

// bench is what the measurements of a run share.
type bench struct{ tmp, program string }

// measure starts each side once to fill its cache, and then n times in turns. The result has a
// list of rounds for each side.
func (b bench) measure(ctx context.Context, e embedder, sides []side, n int) ([][]started, error) {
	dir, err := os.MkdirTemp(b.tmp, "")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	s := start{Embedder: e.name, Dir: dir, Guests: map[string]string{}}
	for _, g := range e.guests {
		if s.Guests[g.name], err = g.find(ctx, b.tmp); err != nil {
			return nil, err
		}
	}
	rounds := make([][]started, len(sides))
	for round := -1; round < n; round++ {
		for i := range sides {
			i = (i + round + 1) % len(sides) // another one begins each round
			if s.Side = sides[i].name; s.Side == uncached && round >= 3 {
				continue
			}
			r, err := b.start(ctx, s)
			switch {
			case err != nil:
				return nil, fmt.Errorf("%s: %w", s.Side, err)
			case round < 0:
				continue
			case r.Compiled > 0:
				return nil, fmt.Errorf("%s: %d modules were compiled that the cache should have had", s.Side, r.Compiled)
			}
			rounds[i] = append(rounds[i], r)
		}
	}
	return rounds, nil
}

// start runs the program once.
func (b bench) start(ctx context.Context, s start) (r started, err error) {
	arg, err := json.Marshal(s)
	if err != nil {
		return r, err
	}
	cmd := exec.CommandContext(ctx, b.program, childFlag, string(arg))
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+s.Dir) // go-re2 makes a directory there
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		said := stderr.Bytes()
		return r, fmt.Errorf("%w\n%s", err, said[:min(len(said), 1000)])
	}
	return r, json.Unmarshal(out, &r)
}

// find returns the guest's file. What has to be built is built in tmp, once.
func (g guest) find(ctx context.Context, tmp string) (string, error) {
	if g.pkg == "" {
		out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", g.module).Output()
		if err != nil {
			return "", fmt.Errorf("find %s: %w", g.module, err)
		}
		file := filepath.Join(strings.TrimSpace(string(out)), filepath.FromSlash(g.file))
		_, err = os.Stat(file)
		return file, err
	}
	file := filepath.Join(tmp, g.name)
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-buildmode=c-shared", "-o", file, g.pkg)
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s for WASI: %w\n%s", g.pkg, err, out)
	}
	return file, nil
}

package modcache_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/modcache/modcache"
	"github.com/stretchr/testify/require"
)

// TestMemoryEvictionOrder runs the scripts in testdata/memory. A line is an
// operation, an arrow, and what must come of it:
//
//	store BYTES [ENTRIES]
//	add NAME… SIZE [COMPILE-TIME]  -> names that are evicted, in order
//	get NAME… [xTIMES]             -> names that are hits
//	resize BYTES                   -> names that are evicted, in order
//
// add and get apply to each name in turn; a name may be a range such as s1..s9.
func TestMemoryEvictionOrder(t *testing.T) {
	scripts, err := filepath.Glob("testdata/memory/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, scripts)
	eachMemory(t, func(t *testing.T, make func(*modcache.MemoryOptions) memoryStore) {
		for _, path := range scripts {
			t.Run(filepath.Base(path), func(t *testing.T) {
				f, err := os.Open(path)
				require.NoError(t, err)
				defer f.Close()
				run := memoryScript{t: t, make: make, names: map[modcache.Key]string{}}
				lines := bufio.NewScanner(f)
				for n := 1; lines.Scan(); n++ {
					line, _, _ := strings.Cut(lines.Text(), "#")
					op, want, _ := strings.Cut(line, "->")
					if fields := strings.Fields(op); len(fields) > 0 {
						got := run.do(fields)
						require.Equal(t, strings.Join(expandNames(strings.Fields(want)), " "), got, "%s:%d: %s", path, n, line)
					}
				}
				require.NoError(t, lines.Err())
			})
		}
	})
}

type memoryScript struct {
	t     *testing.T
	make  func(*modcache.MemoryOptions) memoryStore
	store memoryStore
	names map[modcache.Key]string
	out   []string
}

func (s *memoryScript) do(fields []string) string {
	ctx := context.Background()
	s.out = nil
	number := func(f string) int {
		n, err := strconv.Atoi(f)
		require.NoError(s.t, err)
		return n
	}
	op, args := fields[0], fields[1:]
	last := args[len(args)-1]
	switch op {
	case "store":
		o := &modcache.MemoryOptions{MaxBytes: int64(number(args[0]))}
		if len(args) > 1 {
			o.MaxEntries = number(args[1])
		}
		o.OnEvent = func(e modcache.Event) { s.out = append(s.out, s.names[e.Key]) }
		s.store = s.make(o)
	case "add":
		var info modcache.Info
		if d, err := time.ParseDuration(last); err == nil && last[len(last)-1] == 's' {
			info.CompileTime, args = d, args[:len(args)-1]
		}
		size := number(args[len(args)-1])
		for _, name := range expandNames(args[:len(args)-1]) {
			k := modcache.Key(modcache.Sum([]byte(name)))
			s.names[k] = name
			memAdd(s.t, s.store, k, modcache.NewArtifact(make([]byte, size), info))
		}
	case "get":
		times := 1
		if strings.HasPrefix(last, "x") {
			times, args = number(last[1:]), args[:len(args)-1]
		}
		for _, name := range expandNames(args) {
			hit := false
			for range times {
				_, hit, _ = s.store.Get(ctx, modcache.Key(modcache.Sum([]byte(name))))
			}
			if hit {
				s.out = append(s.out, name)
			}
		}
	case "resize":
		s.store.Resize(int64(number(args[0])))
	default:
		s.t.Fatalf("unknown operation %q", op)
	}
	return strings.Join(s.out, " ")
}

// expandNames replaces ranges such as s1..s3 by the names in them.
func expandNames(names []string) []string {
	var all []string
	for _, name := range names {
		from, to, isRange := strings.Cut(name, "..")
		if !isRange {
			all = append(all, name)
			continue
		}
		prefix := strings.TrimRight(from, "0123456789")
		first, _ := strconv.Atoi(from[len(prefix):])
		last, _ := strconv.Atoi(to[len(prefix):])
		for i := first; i <= last; i++ {
			all = append(all, fmt.Sprint(prefix, i))
		}
	}
	return all
}

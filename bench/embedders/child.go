package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/modcache/modcache/bench/embedders/swap"
)

// start is what a process of its own is asked to do.
type start struct {
	Embedder, Side string
	Dir            string            // of all caches
	Guests         map[string]string // files by name
}

// started is what it took, in milliseconds.
type started struct {
	Open, Compile, Instantiate, Total float64
	PeakMB                            float64
	Compiled                          int // by us, of the modules that a cache should have had
}

// Call is what is left: the library's own work, host modules, and the first call.
func (s started) Call() float64 { return s.Total - s.Open - s.Compile - s.Instantiate }

const childFlag = "-child"

func childMain(arg string) error {
	var s start
	if err := json.Unmarshal([]byte(arg), &s); err != nil {
		return err
	}
	e, err := find(embedders, s.Embedder, func(e embedder) string { return e.name })
	if err != nil {
		return err
	}
	way, err := find(sides, s.Side, func(s side) string { return s.name })
	if err != nil {
		return err
	}
	c := newClock(way, s.Dir)
	swap.Make = c.make
	begin := time.Now()
	err = e.run(context.Background(), s.Guests)
	total := time.Since(begin)
	if err != nil {
		return fmt.Errorf("%s: %w", s.Embedder, err)
	}
	if c.compiled == 0 {
		return fmt.Errorf("%s compiled nothing with what package swap makes", s.Embedder)
	}
	ms := func(d time.Duration) float64 { return d.Seconds() * 1e3 }
	r := started{Open: ms(c.opened), Compile: ms(c.compiled), Instantiate: ms(c.instance), Total: ms(total), PeakMB: peakMB()}
	if m, _ := c.open(); m.cache != nil {
		r.Compiled = int(m.cache.Metrics().Compiles)
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// peakMB reads the high-water mark of the resident set, where Linux tells it.
func peakMB() float64 {
	status, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kb, _ := strconv.ParseFloat(strings.TrimSpace(strings.SplitN(rest, "kB", 2)[0]), 64)
	return kb / 1024
}

func find[T any](all []T, name string, nameOf func(T) string) (T, error) {
	var none T
	var names []string
	for _, x := range all {
		if nameOf(x) == name {
			return x, nil
		}
		names = append(names, nameOf(x))
	}
	return none, fmt.Errorf("there is no %q, but %s", name, strings.Join(names, ", "))
}

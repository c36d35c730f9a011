package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// progress shows how far a list of files is: a line for each, and on a terminal a
// bar below them.
type progress struct {
	bar   io.Writer // nil off a terminal
	total int
	start time.Time

	mu     sync.Mutex // guards all below, and keeps lines and bar apart
	done   int
	active map[string]time.Time // since when files are being compiled
	drawn  bool
	failed error // of writing lines

	stop    chan struct{}
	stopped chan struct{}
}

func newProgress(s *streams, total int) *progress {
	p := &progress{total: total, start: time.Now(), active: make(map[string]time.Time),
		stop: make(chan struct{}), stopped: make(chan struct{})}
	if !s.errIsTerminal || os.Getenv("TERM") == "dumb" {
		close(p.stopped)
		return p
	}
	p.bar = s.err
	go p.animate()
	return p
}

func (p *progress) animate() {
	defer close(p.stopped)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-tick.C:
			p.mu.Lock()
			p.draw()
			p.mu.Unlock()
		}
	}
}

// compiling notes that a file is being compiled, and not just loaded.
func (p *progress) compiling(file string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.active[file] = time.Now()
	p.draw()
}

// finish prints the line of a file that is done.
func (p *progress) finish(file string, out io.Writer, line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done++
	delete(p.active, file)
	p.clear()
	if _, err := fmt.Fprintln(out, line); err != nil {
		p.failed = err
	}
	p.draw()
}

// close removes the bar. It returns the error of writing lines, if there was one.
func (p *progress) close() error {
	close(p.stop)
	<-p.stopped
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	return p.failed
}

// clear and draw require p.mu.
func (p *progress) clear() {
	if p.drawn {
		fmt.Fprint(p.bar, "\r\x1b[K")
		p.drawn = false
	}
}

func (p *progress) draw() {
	if p.bar == nil {
		return
	}
	p.drawn = true
	fmt.Fprint(p.bar, "\r", p.text(time.Now()), "\x1b[K")
}

// text fits a line of 80 characters.
func (p *progress) text(now time.Time) string {
	const width, longest = 20, 22
	full := width * p.done / max(1, p.total)
	line := fmt.Sprintf("[%s%s] %d/%d %.1fs", strings.Repeat("=", full), strings.Repeat(" ", width-full), p.done, p.total, now.Sub(p.start).Seconds())
	if len(p.active) == 0 {
		return line
	}
	// The one that takes longest is the one to wait for.
	names := slices.SortedFunc(maps.Keys(p.active), func(a, b string) int { return cmp.Or(p.active[a].Compare(p.active[b]), cmp.Compare(a, b)) })
	name := []rune(printable(filepath.Base(names[0])))
	if len(name) > longest {
		name = append(name[:longest-1], '…')
	}
	line += " compiling " + string(name)
	if n := len(names) - 1; n > 0 {
		line += fmt.Sprintf(" +%d", n)
	}
	return line
}

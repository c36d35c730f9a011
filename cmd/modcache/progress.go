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
	s     *streams
	total int
	start time.Time

	mu     sync.Mutex // guards all below, and keeps lines and bar apart
	bar    io.Writer  // nil off a terminal
	drawn  bool
	done   []moduleReady
	active map[string]time.Time // since when files are being compiled
}

func newProgress(s *streams, total int) *progress {
	p := &progress{s: s, total: total, start: time.Now(), active: make(map[string]time.Time)}
	if s.errIsTerminal && os.Getenv("TERM") != "dumb" {
		p.bar = s.err
	}
	p.animate()
	return p
}

// animate draws the bar again and again until p is closed.
func (p *progress) animate() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		p.draw()
		time.AfterFunc(100*time.Millisecond, p.animate)
	}
}

// compiling notes that a file is being compiled, and not just loaded.
func (p *progress) compiling(file string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.active[file] = time.Now()
	p.draw()
}

// finish notes a file that is done, and prints its line.
func (p *progress) finish(file, what, detail string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := moduleReady{File: file, Outcome: what}
	if what == failed {
		m.Error = strings.TrimPrefix(detail, ": ")
	}
	p.done = append(p.done, m)
	delete(p.active, file)
	p.clear()
	out := p.s.out
	if what == failed {
		out = p.s.err
	}
	fmt.Fprintf(out, "%-9s %s%s\n", what, printable(file), detail)
	p.draw()
}

// close removes the bar, and returns what became of the files.
func (p *progress) close() []moduleReady {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	p.bar = nil
	return p.done
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
	full := width * len(p.done) / max(1, p.total)
	line := fmt.Sprintf("[%s%s] %d/%d %.1fs", strings.Repeat("=", full), strings.Repeat(" ", width-full), len(p.done), p.total, now.Sub(p.start).Seconds())
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

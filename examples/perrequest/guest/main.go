//go:build wasip1

// The guest of the server: a Go program with a good deal to set up, and little to do for a
// request. It says how often words that it knows occur in a text.
package main

import (
	"fmt"
	"regexp"
	"strings"
)

// Everything here is made by _initialize, before the first request.
var (
	word  = regexp.MustCompile(`[\p{L}\p{N}]+(?:['’-][\p{L}\p{N}]+)*`)
	known = dictionary(20_000)
	seen  int // requests that this instance has answered
)

func dictionary(n int) map[string]int {
	m := make(map[string]int, n)
	for i := range n {
		m[fmt.Sprintf("word%d", i)] = i
	}
	return m
}

// input copies at most size bytes of the request, and returns how many it has.
//
//go:wasmimport host input
func input(buf *byte, size uint32) uint32

//go:wasmimport host output
func output(text string)

//go:wasmexport handle
func handle() {
	buf := make([]byte, 4096)
	n := input(&buf[0], uint32(len(buf)))
	text := strings.ToLower(string(buf[:min(int(n), len(buf))]))
	found := 0
	for _, w := range word.FindAllString(text, -1) {
		if _, ok := known[w]; ok {
			found++
		}
	}
	seen++
	output(fmt.Sprintf("%d known words, request %d of this instance\n", found, seen))
}

func main() {}

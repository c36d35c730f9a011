//go:build wasip1

// The guest of the plugin host. It answers requests, and counts them with a counter of
// the host's that it knows by handle only.
package main

import (
	"strconv"
	"strings"
)

// greeting is replaced when the plugin is built.
var greeting = "Hello"

// input copies at most size bytes of the request, and returns how many it has.
//
//go:wasmimport host input
func input(buf *byte, size uint32) uint32

//go:wasmimport host output
func output(text string)

//go:wasmimport host open
func open(counter string) uint64

//go:wasmimport host add
func add(counter uint64, n int64) int64

//go:wasmexport handle
func handle() {
	counter := open("visits")
	request := read()
	switch {
	case request == "crash":
		panic("bug in the plugin")
	case request == "loop":
		for {
		}
	case request == "handle":
		output(strconv.FormatUint(counter, 10))
	case request == "long":
		output(strconv.FormatUint(open(strings.Repeat("x", 1<<20)), 10))
	case strings.HasPrefix(request, "try "):
		// Another tenant's handle, perhaps.
		n, _ := strconv.ParseUint(request[4:], 10, 64)
		output(strconv.FormatInt(add(n, 1), 10))
	default:
		output(greeting + ", " + request + "! This is visit " + strconv.FormatInt(add(counter, 1), 10) + ".\n")
	}
}

func read() string {
	buf := make([]byte, 1024)
	n := input(&buf[0], uint32(len(buf)))
	return string(buf[:min(int(n), len(buf))])
}

func main() {}

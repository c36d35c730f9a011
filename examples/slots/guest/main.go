//go:build wasip1

// The guest of the slots example. It holds the host's journals by handle, and never
// sees more of them than these integers.
package main

//go:wasmimport journal open
func open(name string) uint64

//go:wasmimport journal write
func write(handle uint64, line string) bool

//go:wasmimport journal lend
func lend(handle uint64) uint64

//go:wasmimport journal clone
func clone(handle uint64) uint64

//go:wasmimport journal drop
func drop(handle uint64) uint32

// keep opens a journal, lends it to the other tenant and leaves it open. It returns the
// handle that is good here and the one that is good there, which the host asks for with lent.
//
//go:wasmexport keep
func keep() uint64 {
	h := open("alice's journal")
	write(h, "opened")
	second := clone(h)
	drop(h)
	write(h, "never written: this handle is gone")
	write(second, "still open by its second handle")
	lentHandle = lend(second)
	return second
}

var lentHandle uint64

//go:wasmexport lent
func lent() uint64 { return lentHandle }

// use writes by a handle that it was given, and counts how many handles near it work too.
//
//go:wasmexport use
func use(handle uint64) uint32 {
	if !write(handle, "written by the one it was lent to") {
		return 0
	}
	works := uint32(0)
	for i := uint64(0); i < 100_000; i++ {
		if write(handle-50_000+i, "") {
			works++
		}
	}
	return works
}

// try tells whether it can write by a handle.
//
//go:wasmexport try
func try(handle uint64) bool { return write(handle, "stolen") }

//go:wasmexport crash
func crash() { panic("bug in the guest") }

func main() {}

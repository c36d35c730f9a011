package modcache_test

import (
	"fmt"

	"github.com/modcache/modcache"
)

// Two builds of one program: func (export "answer") (result i32) i32.const 42.
const (
	// A debug build, with a name section, a note of who produced it, and the wide
	// integers that linkers leave behind.
	debugBuild = "\x00asm\x01\x00\x00\x00" +
		"\x01\x85\x80\x80\x80\x00\x01\x60\x00\x01\x7f" +
		"\x03\x02\x01\x00" +
		"\x07\x0a\x01\x06answer\x00\x00" +
		"\x0a\x8b\x80\x80\x80\x00\x01\x85\x80\x80\x80\x00\x00\x41\xaa\x00\x0b" +
		"\x00\x10\x04name\x01\x09\x01\x00\x06answer" +
		"\x00\x0b\x09producers\x00"
	// A release build, stripped and compact.
	releaseBuild = "\x00asm\x01\x00\x00\x00" +
		"\x01\x05\x01\x60\x00\x01\x7f" +
		"\x03\x02\x01\x00" +
		"\x07\x0a\x01\x06answer\x00\x00" +
		"\x0a\x06\x01\x04\x00\x41\x2a\x0b"
)

func ExampleCanonical() {
	debug, err := modcache.Canonical([]byte(debugBuild))
	if err != nil {
		fmt.Println(err)
		return
	}
	release, err := modcache.Canonical([]byte(releaseBuild))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("same bytes:", modcache.Sum([]byte(debugBuild)) == modcache.Sum([]byte(releaseBuild)))
	fmt.Println("same program:", debug == release)
	// Output:
	// same bytes: false
	// same program: true
}

func ExampleCanonicalize() {
	canonical, err := modcache.Canonicalize([]byte(debugBuild))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%d of %d bytes\n", len(canonical), len(debugBuild))
	fmt.Printf("% x\n", canonical[len(canonical)-8:])
	// Output:
	// 39 of 83 bytes
	// 0a 06 01 04 00 41 2a 0b
}

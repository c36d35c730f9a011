package wazerohook

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
)

// The go command gives each program that it links an id of four hashes:
//
//	action of linking / action of compiling main / content of main / content of the program
//
// An action's hash covers all that goes into it, the content of each package and the toolchain among
// it. So another wazero, or another compiler, is another id. What the last part covers
// depends: for what is run and thrown away (go run, go test), it is the first part again.
//
// Linkers take any text for an id: -ldflags=-buildid= leaves it empty, and Bazel writes
// "redacted". These say nothing about the code, so that only an id of the go command's form counts.

// isGoBuildID reports whether an id has that form.
func isGoBuildID(id string) bool {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
	hashes := strings.Split(id, "/")
	for _, hash := range hashes {
		if len(hash) != 20 || strings.Trim(hash, letters) != "" {
			return false
		}
	}
	return len(hashes) == 4
}

// buildID reads the id that the go command gave to an executable; "" if there is none that tells anything.
func buildID(file io.ReaderAt) string {
	id := noteBuildID(file)
	if id == "" {
		id = textBuildID(file)
	}
	if !isGoBuildID(id) {
		return ""
	}
	return id
}

// noteBuildID finds the id in a note of an ELF file; "" if that has none.
func noteBuildID(file io.ReaderAt) string {
	const (
		elfHeader   = 64 // of 64 bits; that of 32 is shorter
		maxHeaders  = 1 << 10
		maxNotes    = 1 << 16
		typeNote    = 4 // of a program header
		noteBuildID = 4 // of a note of Go's
	)
	head := make([]byte, elfHeader)
	if _, err := file.ReadAt(head, 0); err != nil || string(head[:4]) != "\x7fELF" {
		return ""
	}
	var order binary.ByteOrder = binary.LittleEndian
	if head[5] == 2 {
		order = binary.BigEndian
	}
	wide := head[4] == 2 // 64 bits
	pick := func(b []byte, at64, at32 int) int64 {
		if wide {
			return int64(order.Uint64(b[at64:]))
		}
		return int64(order.Uint32(b[at32:]))
	}
	at := pick(head, 0x20, 0x1c)
	size, count := int(order.Uint16(head[0x36:])), int(order.Uint16(head[0x38:]))
	if !wide {
		size, count = int(order.Uint16(head[0x2a:])), int(order.Uint16(head[0x2c:]))
	}
	if size < 0x20 || wide && size < 0x38 || count > maxHeaders {
		return ""
	}
	headers := make([]byte, size*count)
	if _, err := file.ReadAt(headers, at); err != nil {
		return ""
	}
	for ; len(headers) > 0; headers = headers[size:] {
		offset, n := pick(headers, 0x08, 0x04), pick(headers, 0x20, 0x10)
		if order.Uint32(headers) != typeNote || n < 0 || n > maxNotes {
			continue
		}
		notes := make([]byte, n)
		if _, err := file.ReadAt(notes, offset); err != nil {
			continue
		}
		for len(notes) >= 12 {
			nameLen, textLen, kind := order.Uint32(notes), order.Uint32(notes[4:]), order.Uint32(notes[8:])
			text := 12 + (uint64(nameLen)+3)&^3
			next := text + (uint64(textLen)+3)&^3
			if text+uint64(textLen) > uint64(len(notes)) {
				break
			}
			if kind == noteBuildID && string(notes[12:12+nameLen]) == "Go\x00\x00" {
				return string(notes[text : text+uint64(textLen)])
			}
			notes = notes[min(next, uint64(len(notes))):]
		}
	}
	return ""
}

// textBuildID finds the id where the formats of other systems have it: at the start of the code, which
// comes soon in a file.
func textBuildID(file io.ReaderAt) string {
	const before, after, within = "\xff Go build ID: \"", "\"\n \xff", 64 << 10
	b := make([]byte, within)
	n, _ := file.ReadAt(b, 0)
	_, rest, _ := bytes.Cut(b[:n], []byte(before))
	id, _, found := bytes.Cut(rest, []byte(after))
	if !found {
		return ""
	}
	return string(id)
}

// Package layout has the names of what is in a cache directory:
//
//	README, CACHEDIR.TAG  for people, and for backup programs
//	trimmed               its time is that of the last trim; it says what was left
//	added                 a byte for each 4 KiB that was added: what there is more than trimmed says
//	0 … f/                shards: entries by the first digit of their key: <key>.v1
//	tmp/                  files being written, renamed into place when whole
//	lock/                 one file per key that is being compiled
//	used/                 one empty file per key, whose time is that of the last use, where
//	                      the entry's own time can't tell
//	quarantine/           the last damaged entries
//
// Names use slashes and are relative to the directory. What has no name of these is
// somebody else's and stays as it is.
package layout

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"strings"
)

const (
	// Version is that of the frames in the directory. Programs of several versions share
	// one: to each of them, the other's entries are files that count and age out.
	Version = "1"
	// Suffix ends the name of an entry of this version.
	Suffix = ".v" + Version

	Temp       = "tmp"
	Locks      = "lock"
	Quarantine = "quarantine"
	Uses       = "used"
	Trimmed    = "trimmed"
	Added      = "added"

	// LostAndFound is in a new file system, and nobody's.
	LostAndFound = "lost+found"

	// Shards are the names of the directories of entries, one digit each.
	Shards = "0123456789abcdef"

	DirPerm  = 0o700
	FilePerm = 0o600
)

// The two files for those who don't know what this is. Nothing depends on the first.
const (
	Readme     = "README"
	ReadmeText = `This directory is a cache of machine code that was compiled from WebAssembly
modules (` + home + `). It may be deleted at any time, whole or
in part: what is missing is compiled again. Programs execute what is in it, so
nobody but its owner should be able to write here.
`

	// Tag tells a cache directory from any other, see [IsTag]. The signature is the one
	// that https://bford.info/cachedir/ asks for.
	Tag     = "CACHEDIR.TAG"
	TagText = "Signature: 8a477f597d28d172789f06886806bc55\n# A cache of " + home + ".\n"

	home = "github.com/modcache/modcache"
)

// IsName reports whether something of that name is ours, or what a new file system has.
func IsName(name string) bool {
	switch name {
	case Readme, Tag, Trimmed, Added, Temp, Locks, Uses, Quarantine, LostAndFound:
		return true
	}
	return IsShard(name)
}

// IsTag reports whether text is that of the Tag file of a cache directory of ours.
func IsTag(text []byte) bool { return bytes.Contains(text, []byte(home)) }

// ShowsCache reports whether something in a directory shows that a cache is there, be it among files of others: the tag,
// whosever it is, or a shard.
func ShowsCache(e interface {
	Name() string
	IsDir() bool
}) bool {
	return e.IsDir() && IsShard(e.Name()) || !e.IsDir() && e.Name() == Tag
}

// Shard returns the name of the directory that key's entry is in.
func Shard(key [32]byte) string { return Shards[key[0]>>4:][:1] }

// IsShard reports whether a directory of that name is a shard.
func IsShard(name string) bool { return len(name) == 1 && strings.Contains(Shards, name) }

// Entry returns the name of key's entry, its shard included.
func Entry(key [32]byte) string {
	var b [len("0/") + 2*len(key) + len(Suffix)]byte // a constant length keeps it off the heap
	b[0], b[1] = Shards[key[0]>>4], '/'
	n := 2 + hex.Encode(b[2:], key[:])
	copy(b[n:], Suffix)
	return string(b[:])
}

// ParseEntry is the inverse of Entry for the last element of a name. The entry may be of
// any Version; ok is false for a file that isn't one of ours.
func ParseEntry(base string) (key [32]byte, version string, ok bool) {
	digits, version, found := strings.Cut(base, ".v")
	key, ok = parseKey(digits)
	if !ok || !found || version == "" || len(version) > 3 || strings.Trim(version, "0123456789") != "" {
		return [32]byte{}, "", false
	}
	return key, version, true
}

// Lock returns the name of key's lock file.
func Lock(key [32]byte) string { return Locks + "/" + hex.EncodeToString(key[:]) }

// IsLock reports whether Lock could have made a name that ends with base.
func IsLock(base string) bool {
	_, ok := parseKey(base)
	return ok
}

// Use returns the name of the file whose time is that of the last use of key's entry.
func Use(key [32]byte) string { return Uses + "/" + hex.EncodeToString(key[:]) }

// ParseUse is the inverse of Use for the last element of a name.
func ParseUse(base string) (key [32]byte, ok bool) { return parseKey(base) }

// Unique returns the last element of a name that nothing else has, for a file in Temp or
// Quarantine.
func Unique(key [32]byte) string { return hex.EncodeToString(key[:]) + "-" + rand.Text() }

// IsUnique reports whether Unique could have made base.
func IsUnique(base string) bool {
	const randomLen = 26 // of rand.Text
	digits, random, _ := strings.Cut(base, "-")
	_, ok := parseKey(digits)
	return ok && len(random) == randomLen
}

// parseKey decodes a key as it is in names: whole, and in lower case.
func parseKey(digits string) (key [32]byte, ok bool) {
	if len(digits) != hex.EncodedLen(len(key)) || strings.Trim(digits, Shards) != "" {
		return key, false
	}
	_, err := hex.Decode(key[:], []byte(digits))
	return key, err == nil
}

// Package bundle is the format of one file that carries the entries of a cache:
//
//	modcache-bundle        says what this is
//	<key>.v1 …             the entries, in the order of their keys: frames, as in a directory
//	modcache-bundle-end    says how many they were
//	modcache-bundle-index  where each of them is
//
// It is a tar file, so that it can be read as it arrives, and looked into with other tools.
// A tar file alone doesn't tell its end from a cut, which is what the end is for. The index
// finds an entry without reading the others. Nothing vouches for it but a checksum, because
// nothing needs to: each entry is bound to its key. Bundles without one are older.
//
// Package tar isn't used here: it brings os/user along, and so the libraries of C into programs
// that had none. Package pack writes bundles.
package bundle

import "fmt"

// Members that are no entries.
const (
	Start     = "modcache-bundle"
	StartText = "modcache bundle 1\n"
	End       = "modcache-bundle-end"
	Index     = "modcache-bundle-index"
)

// EndText is what End says.
func EndText(entries int) string { return fmt.Sprintf("%d entries\n", entries) }

// Everything in a tar file is aligned to blocks, and zeros end it.
const (
	block   = 512
	trailer = 2 * block
)

// Span is where in a bundle an entry is.
type Span struct {
	Key      [32]byte
	Off, Len int64
}

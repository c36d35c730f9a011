//go:build !(unix || windows)

package dirfs

// IsNoSpace reports whether err means that the file system or a quota is full.
func IsNoSpace(error) bool { return false }

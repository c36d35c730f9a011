//go:build !unix

package wazerohook

// tryExecutableMemory isn't known here.
func tryExecutableMemory() error { return nil }

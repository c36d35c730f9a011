//go:build !(linux && (amd64 || arm64))

package mapped

// restore does nothing: what MADV_DONTNEED does is Linux's own.
func (area) restore(uint64) bool { return false }

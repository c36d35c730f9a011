//go:build !(linux || darwin || freebsd || netbsd || dragonfly)

package mapped

func fileLimit() int64 { return noLimit }

//go:build !linux

package wazerohook

func adviseHugePages([]byte) {}

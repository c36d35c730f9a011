//go:build !linux

package mapped

import "os"

func anonymousFile() (*os.File, error) { return unlinkedFile() }

func seal(*os.File) {}

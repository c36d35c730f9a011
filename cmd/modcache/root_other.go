//go:build !unix

package main

import "io/fs"

func ofRoot(fs.FileInfo) bool { return false }

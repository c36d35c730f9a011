//go:build !unix

package modcache

import (
	"fmt"
	"io/fs"
)

const openFlags = 0

// checkDir can't judge access control lists. On Windows, directories in the
// user's profile are writable by the user and administrators only.
func checkDir(dir string, fi fs.FileInfo, _ bool) error {
	if !fi.IsDir() {
		return fmt.Errorf("%s is not a directory but %v; name the real directory", dir, fi.Mode().Type())
	}
	return nil
}

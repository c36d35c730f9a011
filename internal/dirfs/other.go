//go:build !unix

package dirfs

import (
	"fmt"
	"io/fs"
)

// NonBlock is a flag of OpenFile that does nothing here.
const NonBlock = 0

// Check can't judge access control lists. On Windows, directories in the
// user's profile are writable by the user and administrators only.
func Check(_ string, fi fs.FileInfo, _ bool) error {
	if !fi.IsDir() {
		return fmt.Errorf("it is not a directory but %v; name the real directory", fi.Mode().Type())
	}
	return nil
}

// SyncDir implements FS. A directory can't be synced here: the file system
// journals names by itself.
func (r *rootFS) SyncDir(string) error { return nil }

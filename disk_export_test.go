package modcache

import "github.com/modcache/modcache/internal/dirfs"

// OpenDiskOn opens a Disk whose file system is wrapped.
func OpenDiskOn(dir string, wrap func(dirfs.FS) dirfs.FS, o *DiskOptions) (*Disk, error) {
	return openDisk(dir, o, func(dir string) (dirfs.FS, error) {
		tree, err := dirfs.Open(dir)
		if err != nil {
			return nil, err
		}
		return wrap(tree), nil
	})
}

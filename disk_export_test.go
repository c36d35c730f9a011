package modcache

import "github.com/modcache/modcache/internal/dirfs"

// OpenDiskOn opens a Disk whose file system is wrapped.
func OpenDiskOn(dir string, wrap func(dirfs.FS) dirfs.FS, o *DiskOptions) (*Disk, error) {
	opts := o.withDefaults()
	tree, err := openTree(dir, opts.ReadOnly)
	if err != nil {
		return nil, err
	}
	return newDisk(dir, wrap(tree), opts)
}

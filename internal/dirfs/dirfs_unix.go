//go:build unix

package dirfs

// SyncDir implements FS.
func (r *rootFS) SyncDir(name string) error {
	d, err := r.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

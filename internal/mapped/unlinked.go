package mapped

import "os"

// unlinkedFile returns a temporary file that goes when it is closed.
func unlinkedFile() (*os.File, error) {
	f, err := os.CreateTemp("", "modcache-image-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil { // not everywhere, while it is open
		_ = f.Close()
		_ = os.Remove(f.Name())
		return nil, err
	}
	return f, nil
}

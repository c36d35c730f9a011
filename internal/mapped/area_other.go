//go:build !((linux || darwin || freebsd || netbsd || dragonfly) && (amd64 || arm64))

package mapped

type area struct{ size uint64 }

func (area) nowhere() bool { return true }

func reserve(uint64, bool) (area, error)  { return area{}, ErrUnsupported }
func wholeArea(size uint64) uint64        { return size }
func (area) bytes(uint64) []byte          { return nil }
func (area) commit(from, to uint64) error { return ErrUnsupported }
func (area) mapImage(*Image) error        { return ErrUnsupported }
func (area) discard(uint64) error         { return ErrUnsupported }
func (area) release()                     {}

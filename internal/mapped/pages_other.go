//go:build !linux

package mapped

// Pages are memory that can change its place without being copied, where the system can do that.
type Pages struct{}

// NewPages returns [ErrUnsupported].
func NewPages(int) (*Pages, error) { return nil, ErrUnsupported }

// Bytes returns the memory.
func (*Pages) Bytes() []byte { return nil }

// MoveTo never succeeds.
func (*Pages) MoveTo([]byte) (bool, error) { return false, nil }

// CopyTo does nothing.
func (*Pages) CopyTo([]byte) {}

// Free does nothing.
func (*Pages) Free() {}

// AdviseHugePages does nothing.
func AdviseHugePages([]byte) {}

package wazerohook

import (
	"context"
	"errors"
	"fmt"

	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache/internal/contain"
)

// ErrExecutableMemory means that this process may not make memory executable, so that no
// compiler can work in it. Some versions of wazero interpret then, others fail or panic.
var ErrExecutableMemory = errors.New("this process may not make memory executable, which a compiler needs; " +
	"what forbids it is systemd's MemoryDenyWriteExecute=, SELinux (execmem), a seccomp filter or a hardened runtime")

// NewRuntime is [wazero.NewRuntimeWithConfig]. Where memory may not be made executable, wazero panics in that before v1.12, and later if it is
// told to compile.
func NewRuntime(ctx context.Context, config wazero.RuntimeConfig) (wazero.Runtime, error) {
	r, err := contain.Value(func() (wazero.Runtime, error) { return wazero.NewRuntimeWithConfig(ctx, config), nil })
	return r, diagnose(err)
}

// diagnose returns why wazero doesn't compile, if something better is known than err, which
// says what was seen of it.
func diagnose(err error) error {
	if err == nil {
		return nil
	}
	if denied := tryExecutableMemory(); denied != nil {
		return &deniedError{denied, err}
	}
	return err
}

// deniedError is what was seen of wazero, and the cause.
type deniedError struct{ denied, seen error }

func (e *deniedError) Error() string { return fmt.Sprintf("%v (%v)", ErrExecutableMemory, e.denied) }

func (e *deniedError) Unwrap() []error { return []error{ErrExecutableMemory, e.denied, e.seen} }

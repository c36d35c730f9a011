package wazerohook

import (
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestFindingFailsForGood, but for what may pass.
func TestFindingFailsForGood(t *testing.T) {
	short := fmt.Errorf("%w: compiling a probe panicked: %v", ErrShape, syscall.ENOMEM)
	denied := &deniedError{os.NewSyscallError("mprotect", syscall.EACCES), ErrShape}
	for _, c := range []struct {
		errs []error
		want []error
	}{
		{[]error{nil}, []error{nil, nil}},
		{[]error{ErrShape}, []error{ErrShape, ErrShape}},
		{[]error{denied}, []error{denied, denied}},
		{[]error{short, short, nil}, []error{short, short, nil, nil}},
		{[]error{short, ErrShape}, []error{short, ErrShape, ErrShape}},
		{[]error{&os.PathError{Op: "open", Path: "/proc/self/exe", Err: syscall.EMFILE}, nil}, []error{syscall.EMFILE, nil}},
	} {
		var f Finding[int]
		found := 0
		for _, want := range c.want {
			n, err := f.Of(func() (int, error) {
				found++
				return found, c.errs[found-1]
			})
			require.ErrorIs(t, err, want)
			require.Equal(t, found, n)
		}
		require.Len(t, c.errs, found)
	}
	var f Finding[int]
	require.Panics(t, func() { _, _ = f.Of(func() (int, error) { panic("once") }) })
	n, err := f.Of(func() (int, error) { return 7, nil })
	require.NoError(t, err)
	require.Equal(t, 7, n)
}

// TestPassesOfAnInterpreter: where wazero could compile, it interprets only for what may pass.
func TestPassesOfAnInterpreter(t *testing.T) {
	require.Equal(t, canCompile(), Passes(ErrInterpreter))
}

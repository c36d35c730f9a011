package contain_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/contain"
)

// loose is an error of somebody else's, which panics once it is strict.
type loose struct{ strict *bool }

func (l *loose) Error() string { return l.text("loose") }

func (l *loose) Is(target error) bool { return l.text("") == "" && target == fs.ErrExist }

func (l *loose) text(s string) string {
	if *l.strict {
		panic("injected")
	}
	return s
}

// TestFrozenErrorsStayAsTheyWere asks errors of others once, and then only where a panic does no harm.
func TestFrozenErrorsStayAsTheyWere(t *testing.T) {
	for _, err := range []error{nil, io.EOF, fmt.Errorf("wrapped: %w", fs.ErrNotExist), errors.Join(io.EOF, &contain.Panic{}), &fs.PathError{Err: io.EOF}, contain.Frozen(&loose{new(bool)})} {
		require.Equal(t, err, contain.Frozen(err))
	}
	strict := false
	inner := &loose{strict: &strict}
	for _, err := range []error{inner, fmt.Errorf("wrapped: %w", inner), errors.Join(io.EOF, inner)} {
		strict = false
		f := contain.Frozen(err)
		require.Equal(t, err.Error(), f.Error())
		require.ErrorIs(t, f, fs.ErrExist)
		require.ErrorIs(t, f, inner)
		var as *loose
		require.ErrorAs(t, f, &as)
		require.NotErrorIs(t, f, fs.ErrClosed)
		strict = true
		require.Contains(t, f.Error(), "loose")
		require.NotErrorIs(t, f, fs.ErrClosed)
		require.False(t, errors.As(f, new(*fs.PathError)))
	}
	strict = false
	f := contain.Frozen(struct{ *loose }{inner}) // of a type that no package has
	strict = true
	require.Contains(t, f.Error(), "loose")
	var panicked *contain.Panic
	require.ErrorAs(t, contain.Frozen(inner), &panicked, "it panics at once")
}

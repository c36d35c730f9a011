package contain_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/contain"
)

// loose is an error of somebody else's, which panics once it is strict, or ends the goroutine.
type loose struct {
	strict *bool
	exits  bool
}

func (l *loose) Error() string { return l.text("loose") }

func (l *loose) Is(target error) bool { return l.text("") == "" && target == fs.ErrExist }

func (l *loose) Network() string { return "net" }

func (l *loose) String() string { return l.text("loose") }

func (l *loose) text(s string) string {
	if *l.strict && l.exits {
		runtime.Goexit()
	} else if *l.strict {
		panic("injected")
	}
	return s
}

// TestFrozenErrorsStayAsTheyWere asks errors of others once, and then only where a panic does no harm.
func TestFrozenErrorsStayAsTheyWere(t *testing.T) {
	for _, err := range []error{nil, io.EOF, fmt.Errorf("wrapped: %w", fs.ErrNotExist), errors.Join(io.EOF, &contain.Panic{}), &fs.PathError{Err: io.EOF}, contain.Frozen(&loose{strict: new(bool)})} {
		require.Equal(t, err, contain.Frozen(err))
	}
	for _, exits := range []bool{false, true} {
		strict := false
		inner := &loose{&strict, exits}
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
		strict = false
		f = contain.Frozen(&net.OpError{Op: "read", Net: "net", Addr: inner, Err: io.EOF}) // whose address is somebody's
		strict = true
		require.Contains(t, f.Error(), "loose")
		require.ErrorIs(t, f, io.EOF)
		var panicked *contain.Panic
		require.ErrorAs(t, contain.Frozen(inner), &panicked, "it panics at once")
	}
}

// selfish panics with itself, and so does whoever prints what was caught.
type selfish struct{}

func (s selfish) Error() string  { panic(s) }
func (s selfish) String() string { panic(s) }

// leaver ends the goroutine of who prints it.
type leaver struct{}

func (leaver) String() string { runtime.Goexit(); return "" }

func TestPanicsAreHarmless(t *testing.T) {
	for _, value := range []any{selfish{}, &selfish{}, leaver{}, struct{ leaver }{}, errors.Join(io.EOF, selfish{})} {
		for _, err := range []error{contain.Call(func() error { panic(value) }), contain.Call(func() error { panic(contain.Caught(value)) })} {
			require.NotPanics(t, func() { require.Contains(t, err.Error(), "panic: ") })
			require.NotErrorIs(t, err, io.EOF)
		}
	}
	for _, err := range []error{selfish{}, errors.Join(io.EOF, selfish{})} {
		require.ErrorContains(t, contain.Call(func() error { return err }), "panic: a contain_test.selfish, in a method of the error")
	}
}

package contain

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCallReturnsWhatFReturns(t *testing.T) {
	require.NoError(t, Call(func() error { return nil }))
	require.Equal(t, io.EOF, Call(func() error { return io.EOF }))
}

func TestPanicsBecomeErrors(t *testing.T) {
	cause := errors.New("cause")
	n, err := Value(func() (n int, err error) { n = 7; panic(cause) })
	require.Zero(t, n)
	require.ErrorIs(t, err, cause)
	require.Equal(t, "panic: cause", err.Error(), "errors are one line")
	require.Contains(t, fmt.Sprintf("%+v", err), "TestPanicsBecomeErrors", "the stack names who panicked")

	var p *Panic
	require.ErrorAs(t, Call(func() error { panic("text") }), &p)
	require.Equal(t, "text", p.Value)
	require.Nil(t, p.Unwrap())
}

// A panic that crosses several calls keeps the stack of where it began.
func TestPanicIsCaughtOnce(t *testing.T) {
	inner := Call(func() error { panic("text") })
	outer := Call(func() error { panic(inner) })
	require.Same(t, inner, outer)

	var p *Panic
	require.ErrorAs(t, inner, &p)
	defer func() {
		again := recover()
		require.ErrorContains(t, again.(error), "TestPanicIsCaughtOnce", "what the Go runtime prints has the stack")
		require.Contains(t, fmt.Sprint(again), "TestPanicIsCaughtOnce")
		require.Same(t, p, Caught(again))
	}()
	p.Again()
}

type broken struct{}

func (broken) ReadAt([]byte, int64) (int, error) { panic("reader") }
func (broken) Close() error                      { panic("closer") }

func TestReaderAndCloser(t *testing.T) {
	Close(broken{})
	n, err := ReaderAt{broken{}}.ReadAt(make([]byte, 4), 0)
	require.Zero(t, n)
	require.ErrorContains(t, err, "reader")
	n, err = ReaderAt{strings.NewReader("text")}.ReadAt(make([]byte, 4), 0)
	require.NoError(t, err)
	require.Equal(t, 4, n)
}

func TestCallDoesNotAllocate(t *testing.T) {
	var n int
	require.Zero(t, testing.AllocsPerRun(100, func() {
		_ = Call(func() error { n++; return nil })
		_, _ = Value(func() (int, error) { return n, nil })
	}))
}

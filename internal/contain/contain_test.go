package contain

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
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

func TestApartSurvivesGoexit(t *testing.T) {
	require.NoError(t, Apart(func() error { return nil }))
	require.Equal(t, io.EOF, Apart(func() error { return io.EOF }))
	require.ErrorContains(t, Apart(func() error { panic("text") }), "text")
	require.Equal(t, ErrExited, Apart(func() error { runtime.Goexit(); return nil }))
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

// TestCallFreezesErrors has an error panic when it is looked at, in one of its methods: else it would do so far from here.
func TestCallFreezesErrors(t *testing.T) {
	for _, in := range []string{"Error", "Is", "As", "Unwrap"} {
		evil := wicked{in}
		for name, err := range map[string]error{
			"returned": Call(func() error { return evil }),
			"wrapped":  Call(func() error { return fmt.Errorf("two: %w, %w", io.EOF, evil) }),
			"panic":    Call(func() error { panic(evil) }),
		} {
			require.NotPanics(t, func() {
				require.NotErrorIs(t, err, io.ErrUnexpectedEOF)
				var none *broken
				require.False(t, errors.As(err, &none))
				require.Contains(t, strings.ToLower(err.Error()), "panic", "%s %s", in, name)
			})
		}
	}
	var none *wicked // as is often returned by mistake
	_, err := Value(func() (int, error) { return 1, none })
	require.ErrorContains(t, err, "*contain.wicked")
	_, err = Value(func() (int, error) { return 1, (*fs.PathError)(nil) })
	require.ErrorContains(t, err, "*fs.PathError")
	require.NoError(t, Frozen(nil))
	joined := errors.Join(io.EOF, errors.New("text"))
	require.Equal(t, joined, Frozen(joined))
}

type wicked struct{ in string }

func (w wicked) at(method string) {
	if w.in == method {
		panic("wicked")
	}
}

func (w wicked) Error() string   { w.at("Error"); return "text" }
func (w wicked) Is(t error) bool { w.at("Is"); return t.Error() == "none" }
func (w wicked) As(any) bool     { w.at("As"); return false }
func (w wicked) Unwrap() error   { w.at("Unwrap"); return nil }

type broken struct{}

func (*broken) Error() string { return "broken" }

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

func BenchmarkCall(b *testing.B) {
	for b.Loop() {
		_ = Call(func() error { return nil })
	}
}

func BenchmarkApart(b *testing.B) {
	for b.Loop() {
		_ = Apart(func() error { return nil })
	}
}

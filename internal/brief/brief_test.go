package brief

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestText(t *testing.T) {
	for _, whole := range []string{"", "text", strings.Repeat("é", Max/2)} {
		require.Equal(t, whole, Text(whole))
	}
	require.Equal(t, "a\uFFFDb", Text("a\xff\xfeb"))
	require.Equal(t, strings.Repeat("x", Max)+"… (and 9 bytes more)", Text(strings.Repeat("x", Max+9)))
	for n := range 6 { // what is cut is somewhere in an é, an € or a 😀
		for _, r := range []string{"é", "€", "😀", "\x80"} {
			said := Text(strings.Repeat("x", Max-n) + strings.Repeat(r, 1<<20))
			require.True(t, utf8.ValidString(said))
			require.Less(t, len(said), Max+50)
			require.Equal(t, r == "\x80" && n > 4, strings.Contains(said, "\uFFFD"), "%d %q", n, r)
		}
	}
}

func TestError(t *testing.T) {
	require.NoError(t, Error(nil))
	long := strings.Repeat("x", 1<<20)
	for _, short := range []error{io.EOF, fmt.Errorf("text: %w", io.EOF)} {
		require.Equal(t, short, Error(short))
		for _, err := range []error{
			fmt.Errorf("%s: %w", long, short),
			fmt.Errorf("one: %w, %w", fmt.Errorf("%w%s", short, long), errors.New(long)),
			errors.Join(errors.New(long), fmt.Errorf("%s: %w", long, errors.Join(errors.ErrUnsupported, short))),
		} {
			kept := Error(err)
			require.Equal(t, Text(err.Error()), kept.Error())
			require.ErrorIs(t, kept, short)
			require.ErrorIs(t, kept, io.EOF)
			require.NotErrorIs(t, kept, io.ErrUnexpectedEOF)
			requireShort(t, kept)
		}
	}
	require.Equal(t, Text(long), Error(errors.New(long)).Error())

	many, deep := make([]error, 1000), fmt.Errorf("%s%w", long, io.EOF)
	for i := range many {
		many[i], deep = io.ErrClosedPipe, fmt.Errorf("%w", deep)
	}
	require.Len(t, Error(errors.Join(append(many, errors.New(long))...)).(*shortened).causes, most)
	require.NotErrorIs(t, Error(deep), io.EOF)
	require.Equal(t, Text(long), Error(hollow{long}).Error())
}

// hollow wraps nothing, as a type of somebody else's may.
type hollow struct{ text string }

func (h hollow) Error() string { return h.text }
func (hollow) Unwrap() error   { return nil }

// requireShort has no long text in err or what it wraps.
func requireShort(t *testing.T, err error) {
	require.Less(t, len(err.Error()), 2*Max)
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		if e.Unwrap() != nil {
			requireShort(t, e.Unwrap())
		}
	case interface{ Unwrap() []error }:
		for _, cause := range e.Unwrap() {
			requireShort(t, cause)
		}
	}
}

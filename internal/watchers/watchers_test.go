package watchers

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestList(t *testing.T) {
	var l List[int]
	l.Tell(1)
	var got []string
	add := func(name string) func() { return l.Add(func(int) { got = append(got, name) }) }
	a, b := add("a"), add("b")
	l.Tell(2)
	a()
	a()
	l.Tell(3)
	b()
	l.Tell(4)
	require.Equal(t, []string{"a", "b", "b"}, got)

	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			stop := l.Add(func(int) {})
			l.Tell(5)
			stop()
		})
	}
	wg.Wait()
	require.Empty(t, l.snapshot())
}

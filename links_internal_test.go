package modcache

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLinksForgetNames that nobody is importing from, and take them for imported from by those who were there then.
func TestLinksForgetNames(t *testing.T) {
	var s links
	first := s.now()
	s.begin(context.Background(), nil)() // under a resolver
	end := s.begin(context.Background(), []string{"kept"})
	for i := range 3 * mostNames {
		s.begin(context.Background(), []string{fmt.Sprint(i)})()
	}
	require.LessOrEqual(t, len(s.byName), mostNames)
	since := s.now()
	require.True(t, s.imported("0", first))
	require.True(t, s.imported("never", first), "it can't be told any more")
	require.True(t, s.imported("", first), "a resolver finds those without a name")
	require.False(t, s.imported("", since))
	require.False(t, s.imported("0", since))
	require.True(t, s.imported("kept", since))
	require.True(t, s.any(since))
	end()
	require.True(t, s.imported("kept", since))
	require.False(t, s.imported("kept", s.now()))
	require.False(t, s.any(s.now()))
}

// TestLinksOfAnySize that guests choose are remembered in little room, and none of them is forgotten.
func TestLinksOfAnySize(t *testing.T) {
	var s links
	start, long := s.now(), strings.Repeat("x", 10*longest)
	for i := range 2 * mostNames {
		s.begin(context.Background(), []string{fmt.Sprint(i, long)})()
	}
	s.begin(context.Background(), []string{long + "one"})()
	require.LessOrEqual(t, len(s.byName), mostNames)
	for name := range s.byName {
		require.LessOrEqual(t, len(name), longest)
	}
	require.True(t, s.imported(long+"one", start))
	require.True(t, s.imported(long+"another", start), "it can't be told apart")
	require.False(t, s.imported(long+"one", s.now()))

	since := s.now()
	end := s.begin(context.Background(), []string{long + "one"})
	require.True(t, s.imported(long+"one", since))
	require.False(t, s.imported("short", since))
	end()
	require.True(t, s.imported(long+"one", since))
	require.False(t, s.imported(long+"one", s.now()))

	many := make([]string, 10*mostNames)
	for i := range many {
		many[i] = fmt.Sprint(i)
	}
	since = s.now()
	end = s.begin(context.Background(), many)
	require.True(t, s.imported("9", since))
	require.LessOrEqual(t, len(s.byName), mostNames+1)
	end()
	require.True(t, s.imported("9", since))
	require.False(t, s.imported("9", s.now()))
}

// TestLinksForgetSeldom where most names stay: each new name costs the same, however many are being imported from.
func TestLinksForgetSeldom(t *testing.T) {
	var s links
	for i := range mostNames {
		s.begin(context.Background(), []string{fmt.Sprint("kept", i)})
	}
	looked := 0 // at names, by forget
	for i := range 10 * mostNames {
		before := len(s.byName)
		s.begin(context.Background(), []string{fmt.Sprint(i)})()
		if len(s.byName) <= before {
			looked += before
		}
		require.LessOrEqual(t, len(s.byName), 2*mostNames)
	}
	require.NotZero(t, looked)
	require.LessOrEqual(t, looked, 2*11*mostNames)
}

package modcache

import (
	"context"
	"fmt"
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

package option

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNumber(t *testing.T) {
	require.Equal(t, 7, Number(7, 1, 2))
	require.Equal(t, 1, Number(0, 1, 2))
	require.Equal(t, 2, Number(-7, 1, 2))
}

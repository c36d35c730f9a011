package bytesize

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "4096": 4096, "10B": 10, "1kB": 1000, "1KB": 1000, "1 KiB": 1024, "1.5GiB": 3 << 29, " 2TB": 2e12, "1e3": 1000,
	} {
		got, err := Parse(s)
		require.NoError(t, err, s)
		require.Equal(t, want, got, s)
	}
	for _, s := range []string{"", "B", "x", "-1", "1 parsec", "1e30", "NaN", "Inf", "1gb"} {
		_, err := Parse(s)
		require.Error(t, err, s)
	}
}

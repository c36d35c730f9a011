package bytesize

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFormat(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", -5000: "-5000 B", 1000: "1.0 kB", 999_949: "999.9 kB", 999_950: "1.0 MB",
		66e6: "66.0 MB", 1 << 62: "4.6 EB", math.MaxInt64: "9.2 EB",
	} {
		require.Equal(t, want, Format(n))
		if n >= 0 {
			require.Equal(t, want, Format(uint64(n)))
		}
	}
	require.Equal(t, "18.4 EB", Format(uint64(math.MaxUint64)))
}

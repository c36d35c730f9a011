// Package bytesize writes numbers of bytes for people, and reads what they write.
package bytesize

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Format writes n with a decimal unit and one digit behind the point.
func Format[N int64 | uint64](n N) string {
	const units = "kMGTPE"
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1000, 0
	for f >= 999.95 {
		f, i = f/1000, i+1
	}
	return fmt.Sprintf("%.1f %cB", f, units[i])
}

// Units are those that Parse knows; the binary ones come first, the smallest at the front.
var Units = []struct {
	Suffix string
	Size   int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

// Parse reads a size such as 500MB, 1.5 GiB or 4096.
func Parse(s string) (int64, error) {
	digits, unit := s, int64(1)
	for _, u := range Units {
		if rest, ok := strings.CutSuffix(s, u.Suffix); ok {
			digits, unit = rest, u.Size
			break
		}
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
	if err != nil || !(n >= 0) || n*float64(unit) >= math.MaxInt64 {
		return 0, errors.New("want a size such as 500MB or 2GiB")
	}
	return int64(n * float64(unit)), nil
}

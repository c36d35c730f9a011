// Package bytesize writes numbers of bytes for people.
package bytesize

import "fmt"

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

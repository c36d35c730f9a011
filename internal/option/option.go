// Package option reads the numbers of option structs: zero is the default, negative is
// off.
package option

import "time"

// Number returns v, or byDefault for 0, or off for what is negative.
func Number[T int | int64 | time.Duration](v, byDefault, off T) T {
	switch {
	case v == 0:
		return byDefault
	case v < 0:
		return off
	}
	return v
}

package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/modcache/modcache/internal/bytesize"
)

// byteCount is a flag such as 2GiB or 500MB. Zero is one that isn't given.
type byteCount int64

func (b *byteCount) Set(s string) error {
	var n keptBytes
	err := n.Set(s)
	if err == nil && n == 0 {
		err = errors.New("want more than nothing, or leave the flag out")
	}
	if err == nil {
		*b = byteCount(n)
	}
	return err
}

func (b *byteCount) String() string { return (*keptBytes)(b).String() }

// keptBytes is one that may be 0: then nothing is kept.
type keptBytes int64

func (b *keptBytes) Set(s string) error {
	n, err := bytesize.Parse(s)
	if err == nil {
		*b = keptBytes(n)
	}
	return err
}

func (b *keptBytes) String() string {
	if b == nil || *b < 0 {
		return ""
	}
	for _, u := range []int{3, 2, 1, 0} {
		if u := bytesize.Units[u]; *b > 0 && int64(*b)%u.Size == 0 {
			return fmt.Sprintf("%d%s", int64(*b)/u.Size, u.Suffix)
		}
	}
	return strconv.FormatInt(int64(*b), 10)
}

// age is a flag such as 90m or 30d.
type age time.Duration

func (a *age) Set(s string) error {
	d, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n float64
		n, err = strconv.ParseFloat(days, 64)
		if d = -1; n <= 100*365 { // which NaN isn't
			d = time.Duration(n * float64(24*time.Hour))
		}
	}
	if err != nil || d < 0 {
		return errors.New("want an age such as 90m, 12h or 30d")
	}
	*a = age(d)
	return nil
}

func (a *age) String() string {
	const day = 24 * time.Hour
	switch d := time.Duration(*a); {
	case d < 0:
		return ""
	case d > 0 && d%day == 0:
		return fmt.Sprintf("%dd", d/day)
	default:
		return d.String()
	}
}

// sane returns t, or the zero time for one that nothing can be made of: what is in a file may be
// anything.
func sane(t time.Time) time.Time {
	if y := t.Year(); y < 1970 || y > 9999 {
		return time.Time{}
	}
	return t.UTC()
}

// agoText writes how long ago t was.
func agoText(now, t time.Time) string {
	d := now.Sub(t)
	switch {
	case t.IsZero():
		return "-"
	case d < -time.Minute:
		return "in the future"
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", d/time.Hour)
	}
	return fmt.Sprintf("%dd ago", d/(24*time.Hour))
}

// tookText writes a duration with as many digits as anybody reads.
func tookText(d time.Duration) string {
	switch {
	case d == 0:
		return "-"
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(100 * time.Microsecond).String()
}

// plural writes a number of things.
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

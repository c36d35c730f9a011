package books

import (
	"fmt"
	"strings"
	"time"

	"github.com/zeebo/xxh3"
)

// Stamp is what a trim leaves in the directory for processes that come later.
type Stamp struct {
	// Since is from when on the times of entries are believed, if that is known: nothing
	// counts as unused for longer than since then.
	Since time.Time

	// What was in the directory at AsOf; nothing is known if that is zero.
	AsOf    time.Time
	Entries int
	Bytes   int64
	Told    int64 // blocks that stores had told others of, which are part of that

	Futile Futile
}

// Futile says that evicting entries freed no space on the file system. It makes no sense
// before so many bytes are free, or that time has come.
type Futile struct {
	Free  int64
	Until time.Time
}

const stampFormat = "since %d, as of %d: %d entries, %d bytes, %d blocks told; evict from %d free bytes, or from %d"

// String is the text of the stamp.
func (s Stamp) String() string {
	text := s.text()
	return text + checked + checksum(text)
}

// checked is between a stamp's text and its checksum.
const checked = "; checksum "

func checksum(text string) string { return fmt.Sprintf("%016x\n", xxh3.HashString(text)) }

func (s Stamp) text() string {
	return fmt.Sprintf(stampFormat, seconds(s.Since), seconds(s.AsOf), s.Entries, s.Bytes, s.Told, s.Futile.Free, seconds(s.Futile.Until))
}

// ParseStamp reads what String returned. A text that it doesn't know, or whose numbers can't
// be right, is the zero Stamp.
func ParseStamp(text string) Stamp {
	text, sum, _ := strings.Cut(text, checked)
	if sum != checksum(text) {
		return Stamp{}
	}
	const maxEntries, maxBytes = 1 << 30, 1 << 50
	var s Stamp
	var since, asOf, until int64
	_, err := fmt.Sscanf(text, stampFormat, &since, &asOf, &s.Entries, &s.Bytes, &s.Told, &s.Futile.Free, &until)
	switch {
	case err != nil, s.Entries < 0, s.Bytes < 0, s.Told < 0, s.Futile.Free < 0, s.Entries > maxEntries, s.Bytes > maxBytes,
		min(since, asOf, until) < 0, max(since, asOf, until) > maxSecond:
		return Stamp{}
	}
	s.Since, s.AsOf, s.Futile.Until = moment(since), moment(asOf), moment(until)
	return s
}

// maxSecond is the last second of the year 9999. No later time has a form in JSON.
const maxSecond = 253402300799

// seconds returns t as seconds since 1970; 0 for no time.
func seconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func moment(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}

// Unused returns the time before which an entry must have been used last to be dropped for
// its age, zero if none is to be, and Since for the next stamp. oldest is the earliest use
// of an entry; since is that of the last stamp. trusted is false if ages would mislead.
func Unused(oldest, now time.Time, maxAge time.Duration, since time.Time, trusted bool) (before, from time.Time) {
	if maxAge < 0 {
		return time.Time{}, since
	}
	if since.After(now.Add(ClockSkew)) {
		since = time.Time{}
	}
	before = now.Add(-maxAge)
	if oldest.Before(before) && (!trusted || since.IsZero() && oldest.Before(firstEver)) {
		since = now
	}
	if since.After(before) {
		before = time.Time{}
	}
	return before, since
}

// firstEver is before the first entry was ever made. Older ones have had their time
// changed, as in images that are to be the same each time they are built.
var firstEver = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

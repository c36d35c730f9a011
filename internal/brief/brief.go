// Package brief shortens what is said of modules: wazero quotes names of a module in its errors, those of functions once for
// each call in the trace of a trap, so that a guest could fill logs, and memory that holds errors.
package brief

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Max is how many bytes of a text are told.
const Max = 1 << 10

// Text returns the beginning of a text, in UTF-8, and how much it leaves out. What it returns doesn't keep the rest in memory.
func Text(s string) string {
	if len(s) > Max {
		end := Max
		for end > Max-utf8.UTFMax && !utf8.RuneStart(s[end]) {
			end--
		}
		s = fmt.Sprintf("%s… (and %d bytes more)", s[:end], len(s)-end)
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// most is how many causes are kept, and how deep they are looked for.
const most = 16

// Error returns what may be kept in the place of err: one whose text is long becomes one with [Text] of it, which wraps
// those of its causes whose texts are short, and those of known that it is, for [errors.Is].
func Error(err error, known ...error) error {
	if err == nil || len(err.Error()) <= Max {
		return err
	}
	s := &shortened{Text(err.Error()), short(nil, err, most)}
	for _, k := range known {
		if errors.Is(err, k) && !errors.Is(s, k) { // by a method of its own, or deep down
			s.causes = append(s.causes, k)
		}
	}
	return s
}

type shortened struct {
	text   string
	causes []error
}

func (s *shortened) Error() string   { return s.text }
func (s *shortened) Unwrap() []error { return s.causes }

// short adds the outermost causes in err whose texts are short.
func short(found []error, err error, depth int) []error {
	switch {
	case err == nil, depth == 0, len(found) == most:
		return found
	case len(err.Error()) <= Max:
		return append(found, err)
	}
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		return short(found, e.Unwrap(), depth-1)
	case interface{ Unwrap() []error }:
		for _, cause := range e.Unwrap() {
			found = short(found, cause, depth-1)
		}
	}
	return found
}

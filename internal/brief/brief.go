// Package brief shortens what is said of modules: wazero quotes names of a module in its errors, those of functions once for
// each call in the trace of a trap, so that a guest could fill logs, and memory that holds errors.
package brief

import (
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

// Error returns what may be kept in the place of err: one whose text is long becomes one with [Text] of it, which wraps
// those of its causes whose texts are short, for [errors.Is].
func Error(err error) error {
	if err == nil || len(err.Error()) <= Max {
		return err
	}
	return &shortened{Text(err.Error()), short(err)}
}

type shortened struct {
	text   string
	causes []error
}

func (s *shortened) Error() string   { return s.text }
func (s *shortened) Unwrap() []error { return s.causes }

// short returns the outermost causes in err whose texts are short.
func short(err error) []error {
	switch {
	case err == nil:
		return nil
	case len(err.Error()) <= Max:
		return []error{err}
	}
	var inside []error
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		inside = []error{e.Unwrap()}
	case interface{ Unwrap() []error }:
		inside = e.Unwrap()
	}
	var found []error
	for _, err := range inside {
		found = append(found, short(err)...)
	}
	return found
}

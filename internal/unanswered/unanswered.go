// Package unanswered tells what kept a question from a server from what the server answers.
package unanswered

import (
	"errors"
	"io/fs"
	"slices"
)

// answers are what a backend's error says of an entry by wrapping it.
var answers = []error{fs.ErrNotExist, fs.ErrPermission, fs.ErrExist}

// Error returns an error that is what err is, but no answer: a secret or a socket that isn't there isn't an entry that isn't
// there.
func Error(err error) error {
	if slices.ContainsFunc(answers, func(answer error) bool { return errors.Is(err, answer) }) {
		return failure{err}
	}
	return err
}

// failure has no Unwrap, so that nothing finds an answer behind it.
type failure struct{ error }

func (f failure) Is(target error) bool {
	return !slices.Contains(answers, target) && errors.Is(f.error, target)
}

func (f failure) As(target any) bool { return errors.As(f.error, target) }

package wazerohook

import (
	"errors"
	"slices"
	"strings"
	"sync"
)

// Finding is what is found out once per process. It is found out again by the next who asks, as long as that fails for
// what may pass.
type Finding[T any] struct {
	mu   sync.Mutex // held while it is found out
	done bool
	v    T
	err  error
}

// Of returns what find has returned.
func (f *Finding[T]) Of(find func() (T, error)) (T, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.done {
		f.v, f.err = find()
		f.done = !Passes(f.err)
	}
	return f.v, f.err
}

// shortages are what systems say when there isn't enough memory, or when there are too many open files. wazero
// passes on no more than the text.
var shortages = []string{"cannot allocate memory", "resource temporarily unavailable", "too many open files"}

// Passes reports whether an error is of a kind that may pass. Where there is no memory for code, some versions of wazero
// interpret.
func Passes(err error) bool {
	if err == nil {
		return false
	}
	text := err.Error()
	return errors.Is(err, ErrInterpreter) && canCompile() ||
		slices.ContainsFunc(shortages, func(shortage string) bool { return strings.Contains(text, shortage) })
}

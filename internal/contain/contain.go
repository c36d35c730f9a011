// Package contain calls code that belongs to others (stores, observers, readers) and
// survives what it does.
package contain

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"
)

// ErrExited is what became of a call that ended its goroutine, by [runtime.Goexit]. Who
// calls on a goroutine of its own assumes it until the call returns.
var ErrExited = errors.New("the call ended its goroutine")

// Panic is what became of a call that panicked.
type Panic struct {
	Value any
	Stack []byte
}

// Error returns one line, for errors that pass through many hands; %+v has the stack.
func (p *Panic) Error() string { return fmt.Sprintf("panic: %v", p.Value) }

// Format implements [fmt.Formatter].
func (p *Panic) Format(s fmt.State, verb rune) {
	_, _ = io.WriteString(s, p.Error())
	if verb == 'v' && s.Flag('+') {
		fmt.Fprintf(s, "\n\n%s", p.Stack)
	}
}

// Again panics with what was caught. Should nobody recover, the stack of where it began
// is printed.
func (p *Panic) Again() { panic(&again{p}) }

type again struct{ *Panic }

func (a *again) Error() string { return fmt.Sprintf("%+v", a.Panic) }

func (a *again) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, a.Error()) }

// Unwrap returns the value if it is an error, as the runtime's panics are.
func (p *Panic) Unwrap() error {
	err, _ := p.Value.(error)
	return err
}

// Call runs f. If f panics, the error is a [*Panic]; that of f is [Frozen].
func Call(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = Caught(r)
		}
	}()
	return Frozen(f())
}

// Value is Call for an f that returns something. If f panics, that is the zero value.
func Value[T any](f func() (T, error)) (v T, err error) {
	defer func() {
		if r := recover(); r != nil {
			v, err = *new(T), Caught(r)
		}
	}()
	v, err = f()
	return v, Frozen(err)
}

// Apart is Call on a goroutine of its own, which it waits for: an f that ends its goroutine is survived
// too, and the error is [ErrExited].
func Apart(f func() error) error {
	err := ErrExited // unless f returns
	apart(func() { err = Call(f) })
	return err
}

// apart runs f on a goroutine of its own, which f may end, and waits for it.
func apart(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
}

// Caught returns what recover has returned as a Panic.
func Caught(value any) *Panic {
	switch p := value.(type) { // caught before, and passed on
	case *Panic:
		return p
	case *again:
		return p.Panic
	}
	return &Panic{Value: harmless(value), Stack: debug.Stack()}
}

// Close closes what nobody can do anything about if it fails.
func Close(c io.Closer) { _ = Call(c.Close) }

// ReaderAt is src with its panics as errors.
type ReaderAt struct{ Src io.ReaderAt }

// ReadAt implements [io.ReaderAt].
func (r ReaderAt) ReadAt(p []byte, off int64) (n int, err error) {
	return Value(func() (int, error) { return r.Src.ReadAt(p, off) })
}

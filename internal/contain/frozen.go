package contain

import (
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
)

// frozen is an error of somebody else's, with its text of once.
type frozen struct {
	err  error
	text string
}

// Frozen returns what stands for err from now on, with the same text and the same answers to [errors.Is] and
// [errors.As]. An error of a type of others may have found its methods sound once, and panic or end the goroutine the next
// time: they are called on one of their own. Where one of them does so at once, as that of a nil pointer in an
// error, a [*Panic] takes its place.
func Frozen(err error) error {
	if err == nil {
		return nil
	}
	f := &frozen{err: err}
	look := func() {
		f.text = err.Error()
		var none *unlike
		_ = errors.Is(err, &unlike{ErrExited}) || errors.As(err, &none) // which ask all that it wraps
	}
	strange := false
	failed := tried(func() {
		if strange = isStrange(err); !strange {
			look()
		}
	})
	switch {
	case strange:
		failed = triedApart(look)
	case failed == nil:
		return err
	}
	if failed != nil {
		return &Panic{Value: fmt.Sprintf("%v, in a method of the error, a %T", failed.Value, err), Stack: failed.Stack}
	}
	return f
}

// unlike is an error that nobody has.
type unlike struct{ error }

func (f *frozen) Error() string { return f.text }

// Is is for [errors.Is].
func (f *frozen) Is(target error) bool {
	return f.says(func() bool { return errors.Is(f.err, target) })
}

// As is for [errors.As].
func (f *frozen) As(target any) bool { return f.says(func() bool { return errors.As(f.err, target) }) }

func (f *frozen) says(ask func() bool) (yes bool) {
	failed := triedApart(func() { yes = ask() })
	return failed == nil && yes
}

// tried calls methods of others, and returns what became of it if they don't return. Of that, none is called.
func tried(f func()) (failed *Panic) {
	defer func() {
		if r := recover(); r != nil {
			failed = &Panic{Value: fmt.Sprintf("a %T", r), Stack: debug.Stack()}
			switch r := r.(type) {
			case string:
				failed.Value = r
			case runtime.Error:
				if !isForeign(reflect.TypeOf(r)) {
					failed.Value = r.Error()
				}
			}
		}
	}()
	f()
	return nil
}

// triedApart is tried on a goroutine of its own, which f may end.
func triedApart(f func()) *Panic {
	failed := &Panic{Value: ErrExited}
	apart(func() { failed = tried(f) })
	return failed
}

// harmless returns what stands for what somebody has panicked with: the same, with no methods that may do so again.
func harmless(value any) any {
	t := reflect.TypeOf(value)
	switch err, isErr := value.(error); {
	case isErr:
		return Frozen(err)
	case t == nil, t.PkgPath() == "" && t.Kind() <= reflect.Complex128, t == reflect.TypeFor[string](), !isForeign(t):
		return value
	}
	text := ""
	if triedApart(func() { text = fmt.Sprint(value) }) != nil {
		text = fmt.Sprintf("a %T", value)
	}
	return text
}

// isStrange reports whether an error, or one of those that it wraps, is of a type of others.
func isStrange(err error) bool {
	if isForeign(reflect.TypeOf(err)) {
		return true
	}
	switch err := err.(type) {
	case interface{ Unwrap() error }:
		cause := err.Unwrap()
		return cause != nil && isStrange(cause)
	case interface{ Unwrap() []error }:
		for _, cause := range err.Unwrap() {
			if cause != nil && isStrange(cause) {
				return true
			}
		}
	}
	return false
}

// standard is where the standard library has its types of errors. A name without a dot may be anybody's. Those of net are asked
// as if they were, because an OpError has addresses, which anybody may implement.
var standard = []string{"archive", "bufio", "compress", "context", "crypto", "encoding", "errors", "fmt", "internal", "io", "os", "runtime", "strconv", "syscall", "time"}

// isForeign reports whether a type is neither of this module nor of the standard library.
func isForeign(t reflect.Type) bool {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	pkg, module := t.PkgPath(), strings.TrimSuffix(reflect.TypeFor[frozen]().PkgPath(), "internal/contain")
	first, _, _ := strings.Cut(pkg, "/")
	ours := strings.HasPrefix(pkg+"/", module) && !strings.HasSuffix(pkg, "_test")
	return !ours && !slices.Contains(standard, first)
}

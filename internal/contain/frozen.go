package contain

import (
	"errors"
	"reflect"
	"slices"
	"strings"
)

// frozen is an error of somebody else's, with its text of once.
type frozen struct {
	err  error
	text string
}

// Frozen returns what stands for err from now on, with the same text and the same answers to [errors.Is] and
// [errors.As]. An error of a type of others may have found its methods sound once, and panic the next time: those who look
// at it later don't call them without being ready for that.
func Frozen(err error) error {
	if err == nil || !isStrange(err) {
		return err
	}
	f := &frozen{err: err}
	if failed := Call(func() error { f.text = err.Error(); return nil }); failed != nil {
		return failed
	}
	return f
}

func (f *frozen) Error() string { return f.text }

// Is is for [errors.Is].
func (f *frozen) Is(target error) (is bool) {
	defer func() { _ = recover() }()
	return errors.Is(f.err, target)
}

// As is for [errors.As].
func (f *frozen) As(target any) (is bool) {
	defer func() { _ = recover() }()
	return errors.As(f.err, target)
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

// standard is where the standard library has its types of errors. A name without a dot may be anybody's.
var standard = []string{"archive", "bufio", "compress", "context", "crypto", "encoding", "errors", "fmt", "internal", "io", "net", "os", "runtime", "strconv", "syscall", "time"}

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

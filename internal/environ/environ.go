// Package environ reads the variables with which operators steer programs that use modcache,
// without a word from those who wrote them.
package environ

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/modcache/modcache/internal/bytesize"
	"github.com/modcache/modcache/internal/weburl"
)

// The variables.
const (
	Mode     = "MODCACHE"           // "off", "ro"
	Dir      = "MODCACHE_DIR"       // an absolute path
	MaxBytes = "MODCACHE_MAX_BYTES" // such as 500MB or 2GiB
)

// Settings are what the environment asks for.
type Settings struct {
	Off      bool   // no directory is used
	ReadOnly bool   // the directory is only read
	Dir      string // "" is the default
	MaxBytes int64  // 0 is what the program says

	// Set lists the variables that count, as NAME=value.
	Set []string
	// Errors say which variables can't be understood, by name. They don't count.
	Errors map[string]error
}

// Read reads the variables.
func Read(getenv func(string) string) Settings {
	s := Settings{Errors: map[string]error{}}
	read := func(name string, take func(value string) error) {
		value := getenv(name)
		if value == "" {
			return
		}
		if err := take(value); err != nil {
			s.Errors[name] = weburl.Discreet(fmt.Errorf("%s is %.200q, which is ignored: %w", name, value, err))
			return
		}
		s.Set = append(s.Set, name+"="+value)
	}
	read(Mode, func(value string) error {
		s.Off, s.ReadOnly = value == "off", value == "ro"
		if !s.Off && !s.ReadOnly {
			return errors.New("want off (use no directory) or ro (only read it)")
		}
		return nil
	})
	read(Dir, func(value string) error {
		if !filepath.IsAbs(value) {
			return errors.New("want an absolute path")
		}
		s.Dir = filepath.Clean(value) // as names of directories are elsewhere
		return nil
	})
	read(MaxBytes, func(value string) (err error) {
		n, err := bytesize.Parse(value)
		if err == nil && n == 0 {
			err = errors.New("want more than nothing; MODCACHE=off turns the directory off")
		}
		if err == nil {
			s.MaxBytes = n
		}
		return err
	})
	return s
}

// Err joins the errors in a fixed order.
func (s Settings) Err() error {
	return errors.Join(s.Errors[Mode], s.Errors[Dir], s.Errors[MaxBytes])
}

// DefaultDir is the directory where nobody names one.
func DefaultDir() (string, error) {
	base, err := os.UserCacheDir()
	if err == nil && !filepath.IsAbs(base) { // as where HOME is: each directory would have a cache of its own
		err = fmt.Errorf("%s is not an absolute path", base)
	}
	if err != nil {
		return "", fmt.Errorf("no default directory, name one or set %s: %w", Dir, err)
	}
	return filepath.Join(base, "modcache"), nil
}

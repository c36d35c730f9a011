package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/environ"
)

// setting is one variable, with the value that is in force.
type setting struct {
	Name    string `json:"name"`
	Value   string `json:"value"`
	Why     string `json:"why"`
	Problem string `json:"problem,omitempty"` // with what the variable says, which doesn't count then
}

var envCommand = command{
	name:  "env",
	short: "print what the environment tells programs to do",
	long: `
Prints what is in force for programs that call modcache.Open(""), and why: what
the variables say, or the defaults. Programs may ignore the variables
(Options.IgnoreEnv), name a directory of their own, or set another default for
MODCACHE_MAX_BYTES, which can't be known here. A shell can read the output.

  MODCACHE            off: no directory is used; ro: it is only read. The other
                      commands write to no default directory then (exit code
                      2); a -dir on the command line is followed
  MODCACHE_DIR        the directory, an absolute path
  MODCACHE_MAX_BYTES  bound of the directory, such as 500MB or 2GiB

A value that can't be understood is ignored; then the exit code is 3.`,
	make: func(fs *flag.FlagSet) action {
		asJSON := fs.Bool("json", false, "one JSON object")
		return func(_ context.Context, s *streams, _ []string) error {
			settings := inForce(environ.Read(os.Getenv))
			if *asJSON {
				if err := s.json(map[string]any{"settings": settings}); err != nil {
					return err
				}
			} else {
				printSettings(s, settings)
			}
			var problems []string
			for _, v := range settings {
				if v.Problem != "" {
					problems = append(problems, v.Problem)
				}
			}
			if len(problems) > 0 {
				return foundError(strings.Join(problems, "\n"))
			}
			return nil
		}
	},
}

const said = "the environment says so"

// boundOf returns how large a directory may become, and why.
func boundOf(env environ.Settings) (limit byteCount, why string) {
	if env.MaxBytes != 0 {
		return byteCount(env.MaxBytes), said
	}
	return modcache.DefaultDiskMaxBytes, "default, unless the program sets another"
}

func inForce(env environ.Settings) []setting {
	mode := setting{Name: environ.Mode, Why: "default: the directory is read and written"}
	switch {
	case env.Off:
		mode.Value, mode.Why = "off", said+": no directory is used"
	case env.ReadOnly:
		mode.Value, mode.Why = "ro", said+": the directory is only read"
	}
	dir := setting{Name: environ.Dir, Value: env.Dir, Why: said}
	if env.Dir == "" {
		var err error
		dir.Why = "default: in the user's cache directory"
		if dir.Value, err = environ.DefaultDir(); err != nil {
			dir.Why, dir.Problem = "none: code is kept in memory", err.Error()
		}
	}
	limit, why := boundOf(env)
	settings := []setting{mode, dir, {Name: environ.MaxBytes, Value: limit.String(), Why: why}}
	for i := range settings {
		v := &settings[i]
		if err := env.Errors[v.Name]; err != nil {
			v.Problem = err.Error()
		}
	}
	return settings
}

func printSettings(s *streams, settings []setting) {
	for _, v := range settings {
		quoted := "'" + strings.ReplaceAll(v.Value, "'", `'\''`) + "'"
		fmt.Fprintf(s.out, "%s=%s  # %s\n", v.Name, quoted, v.Why)
	}
}

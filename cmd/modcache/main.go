// Command modcache fills cache directories, looks into them and keeps them in
// order. Run it with -h for what it can do.
package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/modcache/modcache/internal/brief"
	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/internal/weburl"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), signals()...)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], &streams{
		in: os.Stdin, out: os.Stdout, err: os.Stderr,
		outIsTerminal: isTerminal(os.Stdout), errIsTerminal: isTerminal(os.Stderr),
	}))
}

// streams is what a command reads and writes.
type streams struct {
	in                           io.Reader
	out, err                     io.Writer
	outIsTerminal, errIsTerminal bool

	interruption *interruption // of the command that runs
}

// sticky keeps the first error of writing, so that commands write line by line and run
// looks once.
type sticky struct {
	io.Writer
	err error
}

func (w *sticky) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.err = cmp.Or(w.err, err)
	return n, err
}

// table aligns columns that tabs separate. Nothing is written before Flush.
type table struct {
	*tabwriter.Writer
	out *bufio.Writer // to which the other writes each cell by itself
}

func (s *streams) table() table {
	out := bufio.NewWriter(s.out)
	return table{tabwriter.NewWriter(out, 0, 0, 2, ' ', 0), out}
}

func (t table) Flush() error { return cmp.Or(t.Writer.Flush(), t.out.Flush()) }

// json writes one object over several lines.
func (s *streams) json(v any) error {
	out := json.NewEncoder(s.out)
	out.SetIndent("", "  ")
	return out.Encode(v)
}

// isTerminal takes every character device for one, but for those that swallow or refuse all.
func isTerminal(f *os.File) bool {
	fi, err := f.Stat()
	return err == nil && fi.Mode()&os.ModeCharDevice != 0 && !slices.ContainsFunc([]string{os.DevNull, "/dev/zero", "/dev/full"}, func(name string) bool {
		other, err := os.Stat(name)
		return err == nil && os.SameFile(fi, other)
	})
}

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitFound  = 3
)

const exitCodes = `Exit codes:
  0  done
  1  something failed, or was interrupted; standard error says what
  2  the command line is wrong, or a variable forbids it; nothing was done
  3  something is missing, damaged or would be cold
`

// command is one word that may follow modcache.
type command struct {
	name  string
	args  string // synopsis of what follows the flags; "" if nothing may
	short string
	long  string
	make  func(*flag.FlagSet) action // declares flags and returns what to do once they are parsed
}

type action func(ctx context.Context, s *streams, args []string) error

var commands = []command{
	warmCommand, lsCommand, statCommand, verifyCommand, trimCommand, rmCommand,
	keyCommand, bundleCommand, pushCommand, pullCommand, keygenCommand, serveCommand, doctorCommand, envCommand, versionCommand,
}

// allCommands are those, and the one that completes their names.
func allCommands() []command { return append(slices.Clip(commands), completionOf(commands)) }

// usageError is an error in the command line.
type usageError string

func (e usageError) Error() string { return string(e) }

func usagef(format string, args ...any) error { return usageError(fmt.Sprintf(format, args...)) }

// foundError is a result that a script wants to notice.
type foundError string

func (e foundError) Error() string { return string(e) }

// run is main in the form that tests call.
func run(ctx context.Context, args []string, s *streams) int {
	if len(args) == 0 {
		overview(s.err)
		return exitUsage
	}
	name, args := args[0], args[1:]
	if name == "help" && len(args) > 0 {
		name, args = args[0], []string{"-h"}
	}
	out := &sticky{Writer: s.out}
	s.out, s.interruption = out, new(interruption)
	do := func() error { overview(s.out); return nil }
	switch name {
	case "-h", "-help", "--help", "help":
	default:
		all := allCommands()
		i := slices.IndexFunc(all, func(c command) bool { return c.name == name })
		if i < 0 {
			fmt.Fprintf(s.err, "modcache: %s; modcache -h lists them\n", plain(fmt.Errorf("there is no command %q", name)))
			return exitUsage
		}
		do = func() error { return all[i].run(ctx, args, s) }
	}
	err := s.interruption.run(ctx, do)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = errors.New("interrupted; what was stored until then is complete")
	} else {
		err = cmp.Or(out.err, err) // nobody has seen the result
	}
	if err != nil {
		fmt.Fprintf(s.err, "modcache %s: %s\n", name, plain(err))
	}
	var usage usageError
	var found foundError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage):
		fmt.Fprintf(s.err, "modcache %s -h explains it\n", name)
		return exitUsage
	case errors.As(err, &found):
		return exitFound
	}
	return exitFailed
}

// plain returns the text of an error for people: without the name that the library
// begins its errors with, which ours stands before, without the stack of a panic, and without passwords in URLs, which may be where
// none belongs. A module that it quotes can neither fill the screen with it, nor steer the terminal, nor begin a line.
func plain(err error) string {
	var p *contain.Panic
	text := ""
	if errors.As(err, &p) {
		text = fmt.Sprintf("panic: %v", p.Value)
	} else {
		text = strings.TrimPrefix(weburl.Discreet(err).Error(), "modcache: ")
	}
	lines := strings.Split(brief.Text(text), "\n")
	for i, line := range lines {
		lines[i] = printable(line)
	}
	return strings.Join(lines, "\n  ")
}

func (c command) run(ctx context.Context, args []string, s *streams) error {
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	do := c.make(fs)
	operands, err := parse(fs, args)
	// A script whose variable isn't set must not get the default directory emptied, or
	// take what nobody has signed.
	fs.Visit(func(f *flag.Flag) {
		if err == nil && f.Value.String() == "" {
			err = usagef("-%s has an empty value: give one, or leave the flag out", f.Name)
		}
	})
	switch {
	case errors.Is(err, flag.ErrHelp):
		c.help(s.out, fs)
		return nil
	case err != nil:
		return usageError(err.Error())
	case c.args == "" && len(operands) > 0:
		return usagef("%s takes no arguments; the directory goes into -dir", c.name)
	}
	if !strings.Contains(c.args, "url") {
		if url, _, err := splitURL(operands); err != nil || url != "" { // quoted nowhere: it may hold a password
			return usagef("%s takes no URL; -h tells where one may go", c.name)
		}
	}
	return do(ctx, s, operands)
}

// parse takes flags before, between and after operands, up to "--".
func parse(fs *flag.FlagSet, args []string) (operands []string, err error) {
	for {
		if err := fs.Parse(args); err != nil {
			return nil, err
		}
		rest := fs.Args()
		if n := len(args) - len(rest); len(rest) == 0 || n > 0 && args[n-1] == "--" {
			return append(operands, rest...), nil
		}
		operands, args = append(operands, rest[0]), rest[1:]
	}
}

func overview(w io.Writer) {
	fmt.Fprint(w, `modcache fills directories with the machine code that the wazero runtime compiles
WebAssembly modules to, looks into them and keeps them in order.

usage: modcache <command> [flags] [arguments]

`)
	for _, c := range allCommands() {
		fmt.Fprintf(w, "  %-10s %s\n", c.name, c.short)
	}
	fmt.Fprintf(w, "\nmodcache <command> -h explains a command.\n\n%s", exitCodes)
}

func (c command) help(w io.Writer, fs *flag.FlagSet) {
	fmt.Fprintf(w, "usage: modcache %s [flags]", c.name)
	if c.args != "" {
		fmt.Fprint(w, " ", c.args)
	}
	fmt.Fprintf(w, "\n\n%s\n", strings.TrimSpace(c.long))
	fmt.Fprint(w, "\nFlags:\n")
	fs.SetOutput(w)
	fs.PrintDefaults()
	fmt.Fprint(w, "\n", exitCodes)
}

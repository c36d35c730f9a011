package main

import (
	"context"
	"flag"
	"fmt"
	"strings"
)

// completionOf returns the command that prints scripts by which shells complete the others.
func completionOf(commands []command) command {
	return command{
		name: "completion", args: "bash|zsh|fish",
		short: "print a script by which a shell completes command lines",
		long: `
Prints a script for a shell, which then completes the names of commands and
flags, and else those of files:

  source <(modcache completion bash)     # in .bashrc; zsh likewise, in .zshrc
  modcache completion fish | source      # in config.fish`,
		make: func(*flag.FlagSet) action {
			return func(_ context.Context, s *streams, args []string) error {
				if len(args) != 1 {
					return usagef("name one shell: bash, zsh or fish")
				}
				switch args[0] {
				case "bash":
					printBash(s, commands)
				case "zsh":
					fmt.Fprintln(s.out, "autoload -U +X bashcompinit && bashcompinit")
					printBash(s, commands)
				case "fish":
					printFish(s, commands)
				default:
					return usagef("there is no script for %q: name bash, zsh or fish", args[0])
				}
				return nil
			}
		},
	}
}

// flagsOf returns what the flag set of a command declares.
func flagsOf(c command) (flags []*flag.Flag) {
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	c.make(fs)
	fs.VisitAll(func(f *flag.Flag) { flags = append(flags, f) })
	return flags
}

// namesOf lists the commands, and the two words that are none.
func namesOf(commands []command) string {
	names := []string{"help", "completion"}
	for _, c := range commands {
		names = append(names, c.name)
	}
	return strings.Join(names, " ")
}

func printBash(s *streams, commands []command) {
	fmt.Fprint(s.out, `_modcache() {
  local cur=${COMP_WORDS[COMP_CWORD]} words=
  if [ "$COMP_CWORD" = 1 ]; then
    words="`+namesOf(commands)+`"
  else case "${COMP_WORDS[1]}" in
`)
	for _, c := range commands {
		var flags []string
		for _, f := range flagsOf(c) {
			flags = append(flags, "-"+f.Name)
		}
		fmt.Fprintf(s.out, "    %s) words=\"%s\";;\n", c.name, strings.Join(flags, " "))
	}
	fmt.Fprintf(s.out, `    help) words="%s";;
    completion) words="bash zsh fish";;
  esac; fi
  case "$COMP_CWORD,$cur" in
    1,*|*,-*) COMPREPLY=($(compgen -W "$words" -- "$cur"));;
    *) case "${COMP_WORDS[1]}" in help|completion) COMPREPLY=($(compgen -W "$words" -- "$cur"));; *) COMPREPLY=($(compgen -f -- "$cur"));; esac;;
  esac
}
complete -o filenames -F _modcache modcache
`, namesOf(commands))
}

func printFish(s *streams, commands []command) {
	quote := func(text string) string {
		text, _, _ = strings.Cut(text, "\n")
		return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(text) + "'"
	}
	fmt.Fprintf(s.out, "complete -c modcache -n __fish_use_subcommand -f -a %s\n", quote("help completion"))
	fmt.Fprintf(s.out, "complete -c modcache -n '__fish_seen_subcommand_from completion' -f -a 'bash zsh fish'\n")
	fmt.Fprintf(s.out, "complete -c modcache -n '__fish_seen_subcommand_from help' -f -a %s\n", quote(namesOf(commands)))
	for _, c := range commands {
		fmt.Fprintf(s.out, "complete -c modcache -n __fish_use_subcommand -f -a %s -d %s\n", c.name, quote(c.short))
		for _, f := range flagsOf(c) {
			_, usage := flag.UnquoteUsage(f)
			fmt.Fprintf(s.out, "complete -c modcache -n '__fish_seen_subcommand_from %s' -o %s -d %s\n", c.name, f.Name, quote(usage))
		}
	}
}

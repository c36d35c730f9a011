package e2e

import (
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// command is what a document tells its reader to type.
type command struct {
	file  string
	dir   string // where, from the root of the repository
	words []string
}

func (c command) String() string { return c.file + ": " + strings.Join(c.words, " ") }

var (
	indented = regexp.MustCompile(`(?m)(?:^ {4}\S.*\n)+`)
	spans    = regexp.MustCompile("`([^`\n]+)`")
	variable = regexp.MustCompile(`^[A-Z_]+=`)
	comment  = regexp.MustCompile(`(?m)\s+# .*$`)
)

// blocksIn returns the indented blocks of a document whose first line is a command.
func blocksIn(text string) (blocks []string) {
	for _, block := range indented.FindAllString(text, -1) {
		if lines := comment.ReplaceAllString(block, ""); len(commandsIn("", "", lines)) > 0 {
			blocks = append(blocks, lines)
		}
	}
	return blocks
}

// commandsIn takes the lines apart. What isn't a command of ours or of Go is none.
func commandsIn(file, dir, lines string) (found []command) {
	for line := range strings.Lines(lines) {
		dir := dir
		for part := range strings.SplitSeq(line, "&&") {
			words := strings.Fields(part)
			for len(words) > 0 && variable.MatchString(words[0]) {
				words = words[1:]
			}
			switch {
			case len(words) < 2:
			case words[0] == "cd":
				dir = path.Join(dir, words[1])
			case words[0] == "modcache" && regexp.MustCompile(`^-?[a-z]+$`).MatchString(words[1]),
				words[0] == "go" && slices.Contains([]string{"run", "test", "get"}, words[1]):
				found = append(found, command{file, dir, words})
			}
		}
	}
	return found
}

// documents calls f with each document that is written by hand.
func documents(t *testing.T, f func(file, text string)) {
	root := moduleRoot(t)
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(root, name)
		rel = filepath.ToSlash(rel)
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "testdata" || rel == "docs/bench"):
			return fs.SkipDir
		case path.Ext(rel) != ".md" || rel == "CHANGELOG.md":
			return nil
		}
		text, err := os.ReadFile(name)
		f(rel, string(text))
		return err
	})
	require.NoError(t, err)
}

// TestDocumentedCommands checks each command in a document: that what it names is there, packages, tests,
// benchmarks, subcommands and flags.
func TestDocumentedCommands(t *testing.T) {
	modcache := build(t, "./cmd/modcache")
	n := 0
	documents(t, func(file, text string) {
		lines := strings.Join(blocksIn(text), "")
		for _, span := range spans.FindAllStringSubmatch(text, -1) {
			lines += strings.ReplaceAll(span[1], `\|`, "|") + "\n"
		}
		// A nested module's page speaks of its own directory.
		home, nested := ".", isNested(t, filepath.Join(moduleRoot(t), path.Dir(file)))
		if nested {
			home = path.Dir(file)
		}
		for _, c := range commandsIn(file, home, lines) {
			if nested && c.words[0] == "modcache" {
				continue // the name of something else
			}
			n++
			var wrong []string
			if c.words[0] == "modcache" {
				wrong = c.ofModcache(modcache)
			} else {
				wrong = c.ofGo(moduleRoot(t))
			}
			for _, w := range wrong {
				t.Errorf("%s: %s", c, w)
			}
		}
	})
	require.Greater(t, n, 30)
}

// ofModcache asks the command for its flags.
func (c command) ofModcache(exe string) (wrong []string) {
	if strings.HasPrefix(c.words[1], "-") {
		return nil
	}
	out, err := exec.Command(exe, c.words[1], "-h").CombinedOutput()
	if err != nil {
		return []string{"there is no command " + c.words[1]}
	}
	for _, w := range c.words[2:] {
		name, _, _ := strings.Cut(strings.TrimLeft(w, "-"), "=")
		if len(w) > 1 && w[0] == '-' && name != "h" && !regexp.MustCompile(`(?m)^\s+-`+regexp.QuoteMeta(name)+`\b`).Match(out) {
			wrong = append(wrong, "no flag "+w)
		}
	}
	return wrong
}

// testFlags are those of go test that documents use.
var testFlags = []string{"v", "race", "short", "args", "count", "benchmem", "benchtime", "timeout"}

// ofGo looks for packages, and for tests and flags in their sources.
func (c command) ofGo(root string) (wrong []string) {
	if c.words[1] == "get" {
		dir, ours := strings.CutPrefix(c.words[len(c.words)-1], "github.com/modcache/modcache")
		if _, err := os.Stat(filepath.Join(root, dir)); ours && err != nil {
			return []string{"no package " + dir}
		}
		return nil
	}
	var sources strings.Builder
	var flags, tests, benchmarks []string
	if !slices.ContainsFunc(c.words, func(w string) bool { return strings.HasPrefix(w, ".") }) {
		c.words = append(c.words, ".")
	}
	for i, w := range c.words[2:] {
		switch before := c.words[i+1]; {
		case before == "-run":
			tests = strings.Split(strings.Trim(w, "'"), "|")
		case before == "-bench":
			benchmarks = strings.Split(strings.Trim(w, "'"), "|")
		case w == "-run" || w == "-bench":
		case strings.HasPrefix(w, "-"):
			name, _, _ := strings.Cut(strings.TrimLeft(w, "-"), "=")
			if c.words[1] == "run" || !slices.Contains(testFlags, name) {
				flags = append(flags, name)
			}
		case w == "." || strings.HasPrefix(w, "./"):
			text, err := sourcesOf(filepath.Join(root, c.dir, w))
			if c.words[1] == "run" && sources.Len() > 0 {
				break // an argument of the program
			}
			if err != nil || text == "" {
				wrong = append(wrong, "no package "+w)
			}
			sources.WriteString(text)
		}
	}
	for _, name := range flags {
		if !strings.Contains(sources.String(), `"`+name+`"`) && name != "h" && name != "help" {
			wrong = append(wrong, "no flag "+name)
		}
	}
	matches := func(prefix string, patterns []string) {
		for _, p := range patterns {
			names := regexp.MustCompile(`(?m)^func (`+prefix+`\w*)\(`).FindAllStringSubmatch(sources.String(), -1)
			e, err := regexp.Compile(p)
			if err != nil || p != "^$" && p != "-" && !slices.ContainsFunc(names, func(m []string) bool { return e.MatchString(m[1]) }) {
				wrong = append(wrong, "nothing like "+p)
			}
		}
	}
	matches("(?:Test|Fuzz|Example)", tests)
	matches("Benchmark", benchmarks)
	return wrong
}

// sourcesOf returns the Go code of a package, or with /... of those below it, too.
func sourcesOf(dir string) (string, error) {
	dir, all := strings.CutSuffix(dir, "/...")
	var text strings.Builder
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != dir && !all:
			return fs.SkipDir
		case filepath.Ext(name) == ".go":
			b, err := os.ReadFile(name)
			text.Write(b)
			return err
		}
		return nil
	})
	return text.String(), err
}

// TestDocumentedCommandsThatAreWrong sees the check fail.
func TestDocumentedCommandsThatAreWrong(t *testing.T) {
	for line, want := range map[string]string{
		"go run ./warmstart":                                      "no package ./warmstart",
		"go run ./examples/quickstart -nonsense x":                "no flag nonsense",
		"go test -run 'TestRuntime|Nonsense' .":                   "nothing like Nonsense",
		"go test -bench Nonsense ./internal/...":                  "nothing like Nonsense",
		"go get -tool github.com/modcache/modcache/cmd/elsewhere": "no package /cmd/elsewhere",
		"cd bench && go run ./nowhere":                            "no package ./nowhere",
		"A=1 go test -race -run 'Runtime|^$' -bench Runtime . -v": "",
	} {
		c := commandsIn("a.md", "", line+"\n")
		require.Len(t, c, 1, line)
		require.Equal(t, want, strings.Join(c[0].ofGo(moduleRoot(t)), "; "), line)
	}
}

// TestDocumentedBlocks runs the blocks of a document that consist of our command's lines, one after the other, in
// a directory that has what they name.
func TestDocumentedBlocks(t *testing.T) {
	cachetest.NeedsCompiler(t)
	if runtime.GOOS == "windows" {
		t.Skip("NOT TESTED: needs a shell")
	}
	bin := filepath.Dir(build(t, "./cmd/modcache"))
	app := build(t, "./internal/e2e/testdata/deploy")
	n := 0
	documents(t, func(file, text string) {
		var script string
		if isNested(t, filepath.Join(moduleRoot(t), path.Dir(file))) {
			return
		}
		for _, block := range blocksIn(text) {
			for line := range strings.Lines(block) {
				words := strings.Fields(line)
				if words[0] == "modcache" && words[1] != "serve" && !strings.Contains(line, "://") {
					script += strings.TrimSpace(line) + "\n"
					n++
				}
			}
		}
		if script == "" {
			return
		}
		t.Run(path.Base(file), func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.Mkdir(filepath.Join(dir, "plugins"), 0o700))
			require.NoError(t, os.Symlink(app, filepath.Join(dir, "app")))
			for i, name := range []string{"plugins/a.wasm", "plugins/b.wasm", "module.wasm", "plugin.wasm"} {
				require.NoError(t, os.WriteFile(filepath.Join(dir, name), wasmtest.Const(int32(i)), 0o600))
			}
			env := append(os.Environ(), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"), "XDG_CACHE_HOME="+dir, "HOME="+dir)
			fill := exec.Command("modcache", "warm", "./plugins")
			for _, cmd := range []*exec.Cmd{fill, exec.Command("sh", "-exc", script)} {
				if cmd == fill {
					cmd.Path, cmd.Err = filepath.Join(bin, "modcache"), nil
				}
				cmd.Dir, cmd.Env = dir, env
				out, err := cmd.CombinedOutput()
				require.NoError(t, err, "%s", out)
			}
		})
	})
	require.NotZero(t, n)
}

// build builds a command, under its name.
func build(t *testing.T, pkg string) (exe string) {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("NOT TESTED: needs the go tool")
	}
	exe = filepath.Join(t.TempDir(), path.Base(pkg))
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", exe, pkg)
	cmd.Dir = moduleRoot(t)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return exe
}

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wazerohook"
)

// finding is one line of a diagnosis.
type finding struct {
	Level  string `json:"level"` // ok, note, warn or bad
	About  string `json:"about"`
	Text   string `json:"text"`
	Advice string `json:"advice,omitempty"`
}

// Levels. Something bad makes the cache cold, or no cache at all.
const (
	levelOK   = "ok"
	levelNote = "note"
	levelWarn = "warn"
	levelBad  = "bad"
)

var doctorCommand = command{
	name: "doctor", args: "[module...]",
	short: "find out why a cache is cold here",
	long: `
Checks everything that a hit depends on: whether this tool's wazero is known
to modcache, the identity of the engine, the CPU, the directory with its
permissions and free space, and what is stored for which engine. With modules,
it says whether their machine code is there for a runtime with the given
settings, and if not, what is there instead. With -program, it reads which
wazero an executable contains, and says whether it finds what this tool and
others have stored. Nothing is changed, and the program is not run.

A line begins with ok, with note for what is good to know, with warn for what
may be wrong, or with bad for what makes the cache cold; then the exit code is
3.`,
	make: func(fs *flag.FlagSet) action {
		doc := &doctor{}
		doc.dir.register(fs)
		doc.engineFlags.register(fs)
		doc.configFlags.register(fs)
		asJSON := fs.Bool("json", false, "one JSON object")
		return func(ctx context.Context, s *streams, files []string) error {
			if err := doc.examine(ctx, files); err != nil {
				return err
			}
			if *asJSON {
				if err := writeJSON(s, map[string]any{"findings": doc.findings}); err != nil {
					return err
				}
			} else if err := doc.print(s); err != nil {
				return err
			}
			if n := doc.count(levelBad); n > 0 {
				return foundError(plural(n, "reason", "reasons") + " for a cold cache; see the lines that begin with bad")
			}
			return nil
		}
	},
}

type doctor struct {
	dir dirFlags
	engineFlags
	configFlags
	findings []finding
	keyer    *keyer
}

func (d *doctor) add(level, about, text, advice string) {
	d.findings = append(d.findings, finding{level, about, text, advice})
}

func (d *doctor) count(level string) (n int) {
	for _, f := range d.findings {
		if f.Level == level {
			n++
		}
	}
	return n
}

// examine fails for command lines that don't make sense. Whatever else is wrong is a
// finding.
func (d *doctor) examine(ctx context.Context, files []string) error {
	modules := make([]*modcache.Module, len(files))
	for i, file := range files {
		wasm, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		modules[i] = modcache.NewModule(wasm)
	}
	k, err := newKeyer(ctx, &d.engineFlags, &d.configFlags)
	var usage usageError
	switch {
	case errors.As(err, &usage):
		return err
	case err != nil && d.program != "":
		return err
	case err != nil:
		d.add(levelBad, "engine", plain(err), "without an identity nothing is shared between processes")
		return nil
	}
	defer k.close(ctx)
	d.keyer = k
	d.wazero()
	d.engineIdentity()
	d.directory(ctx, files, modules)
	return nil
}

func (d *doctor) wazero() {
	w, err := wazerohook.Probe()
	switch {
	case errors.Is(err, wazerohook.ErrInterpreter):
		d.add(levelBad, "wazero", "interprets on "+platform()+", where it has no compiler: there is nothing to cache", "run programs on amd64 or arm64")
		return
	case err != nil:
		d.add(levelBad, "wazero", "modcache doesn't know this build: "+plain(err), "use a version of wazero that modcache's README names")
		return
	case !w.KeysKnown:
		d.add(levelWarn, "wazero", "its keys are unknown: Cache.NewRuntime falls back to the drop-in", "use a version of wazero that modcache's README names")
	}
	d.add(levelOK, "wazero", fmt.Sprintf("%s is supported", w.Format.Version), "")
	for _, err := range d.keyer.degraded {
		d.add(levelWarn, "wazero", plain(err), "")
	}
	d.add(levelNote, "platform", fmt.Sprintf("%s, CPU features %#x as wazero counts them", platform(), w.CPU),
		"keys include both: code from a machine with other features isn't found here")
}

func (d *doctor) engineIdentity() {
	en := d.keyer.engine
	if d.program == "" {
		d.add(levelNote, "engine", en.id, "programs with another wazero don't find what this tool stores; see -program")
	} else if !d.programIdentity() {
		return
	}
	switch {
	case isExecutable(en.id):
		d.add(levelWarn, "engine", "is known by a hash of the executable only: each build of it starts cold",
			"build with module checksums (no vendoring, no replace by a directory), or set Options.EngineID")
	case d.program == "" && d.keyer.mismatch != nil:
		d.add(levelBad, "engine", plain(d.keyer.mismatch), "")
	}
}

// programIdentity compares the program with this tool, and returns false if no more
// needs to be said.
func (d *doctor) programIdentity() bool {
	en := d.keyer.engine
	p := en.program
	d.add(levelNote, "program", fmt.Sprintf("%s contains wazero %s, for %s/%s", d.program, p.Required, p.GOOS, p.GOARCH), "")
	whose := "of the program, unless it sets Options.EngineID, which -engine-id stands for"
	if d.id != "" {
		whose = "as -engine-id says"
	}
	d.add(levelNote, "engine", en.id, whose)
	if err := en.check(); err != nil {
		d.add(levelBad, "engine", plain(err), "")
		return false
	}
	d.add(levelOK, "engine", "what this tool compiles is for the program", "")
	return true
}

func (d *doctor) print(s *streams) error {
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	for _, f := range d.findings {
		for i, line := range strings.Split(f.Text, "\n") {
			if i == 0 {
				fmt.Fprintf(t, "%s\t%s\t%s\n", f.Level, f.About, printable(line))
			} else {
				fmt.Fprintf(t, "\t\t%s\n", printable(line))
			}
		}
		if f.Advice != "" {
			fmt.Fprintf(t, "\t\t→ %s\n", f.Advice)
		}
	}
	return t.Flush()
}

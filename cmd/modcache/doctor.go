package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bytesize"
	"github.com/modcache/modcache/internal/dirfs"
	"github.com/modcache/modcache/internal/environ"
	"github.com/modcache/modcache/internal/wasmbin"
	"github.com/modcache/modcache/internal/wazerohook"
	"github.com/modcache/modcache/remote"
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
	name: "doctor", args: "[url] [module...]",
	short: "find out why a cache is cold here",
	long: `
Checks everything that a hit depends on: whether this tool's wazero is known
to modcache, the identity of the engine, the CPU, the directory with its
permissions and free space, and what is stored for which engine. With modules,
it says whether their machine code is there for a runtime with the given
settings, and if not, what is there instead. With -program, it reads which
wazero an executable contains, and says whether it finds what this tool and
others have stored. Nothing is changed, and the program is not run.

With a URL, it looks at a server and not at a directory: whether it answers,
lets us in, and has the code of the modules, signed by whom -keyring lists.

A line begins with ok, with note for what is good to know, with warn for what
may be wrong, or with bad for what makes the cache cold; then the exit code is
3.
` + urlHelp,
	make: func(fs *flag.FlagSet) action {
		doc := &doctor{}
		doc.dir.register(fs)
		doc.engineFlags.register(fs)
		doc.configFlags.register(fs)
		doc.trust.register(fs, false, true)
		asJSON := fs.Bool("json", false, "one JSON object")
		return func(ctx context.Context, s *streams, files []string) error {
			if err := doc.examine(ctx, files); err != nil {
				return err
			}
			if *asJSON {
				_ = s.json(map[string]any{"findings": doc.findings})
			} else {
				doc.print(s)
			}
			if doc.bad > 0 {
				return foundError(plural(doc.bad, "reason", "reasons") + " for a cold cache; see the lines that begin with bad")
			}
			return nil
		}
	},
}

type doctor struct {
	dir dirFlags
	engineFlags
	configFlags
	trust    trustFlags
	findings []finding
	bad      int // of them
	keyer    *keyer
}

func (d *doctor) add(level, about, text, advice string) {
	d.findings = append(d.findings, finding{level, about, text, advice})
	if level == levelBad {
		d.bad++
	}
}

// examine fails for command lines that don't make sense. Whatever else is wrong is a
// finding.
func (d *doctor) examine(ctx context.Context, operands []string) error {
	url, files, err := splitURL(operands)
	if err != nil {
		return err
	}
	var at *place
	var o *remote.Options
	switch {
	case url != "" && (d.dir.dir != "" || d.dir.keyFile != "" || d.dir.group):
		return usagef("a URL takes the place of a directory: it excludes -dir, -key-file and -group")
	case url != "":
		if at, o, err = d.trust.placeAt(url, "a -keyring"); err != nil {
			return err
		}
	case d.trust.secret+d.trust.keyring != "":
		return usagef("-keyring and -bundle-key-file are for a server: name its URL")
	}
	modules := make([]*modcache.Module, len(files))
	for i, file := range files {
		wasm, err := readModule(ctx, file)
		if err != nil {
			return err
		}
		modules[i] = modcache.NewModule(wasm).Named(filepath.Base(file))
	}
	k, err := newKeyer(ctx, &d.engineFlags, &d.configFlags)
	var usage usageError
	switch {
	case errors.As(err, &usage), err != nil && d.program != "":
		return err
	case err != nil:
		d.add(levelBad, "engine", plain(err), "programs that can't tell which wazero they contain store nothing: build with module checksums, or set Options.EngineID, such as to wazero's line in go.sum")
		return nil
	}
	defer k.close(ctx)
	d.keyer = k
	d.wazero()
	d.engineIdentity()
	if at != nil {
		return d.server(ctx, at, o, files, modules)
	}
	d.environment()
	d.directory(ctx, files, modules)
	return nil
}

func (d *doctor) wazero() {
	w, err := wazerohook.Probe()
	switch {
	case errors.Is(err, wazerohook.ErrExecutableMemory):
		d.add(levelBad, "wazero", plain(err), "allow it for programs that run WebAssembly; until then, nothing is compiled, or compiling fails")
		return
	case errors.Is(err, wazerohook.ErrInterpreter):
		d.add(levelBad, "wazero", "interprets on "+platform()+", where it has no compiler: there is nothing to cache", "run programs on amd64 or arm64")
		return
	case err != nil:
		d.add(levelBad, "wazero", "modcache doesn't know this build: "+plain(err), "use a version of wazero that modcache's README names")
		return
	case !w.KeysKnown:
		d.add(levelWarn, "wazero", "its keys are unknown: Cache.NewRuntime falls back to the drop-in", "use a version of wazero that modcache's README names")
	}
	d.add(levelOK, "wazero", fmt.Sprintf("%s is supported", w.Version), "")
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
		d.add(levelWarn, "engine", "is known by the executable only: each build of it starts cold",
			"build with module checksums (no vendoring, no replace by a directory); or, as with Bazel, set Options.EngineID, such as to wazero's line in go.sum")
	case d.program == "" && d.keyer.mismatch != nil:
		d.add(levelBad, "engine", plain(d.keyer.mismatch), "")
	}
}

// environment says what programs find there that name no directory.
func (d *doctor) environment() {
	env := environ.Read(os.Getenv)
	for _, said := range env.Set {
		d.add(levelNote, "environment", said, "programs that call modcache.Open(\"\") follow it; see modcache env")
	}
	if err := env.Err(); err != nil {
		d.add(levelWarn, "environment", err.Error(), "see modcache env -h")
	}
	if env.Off {
		d.add(levelWarn, "environment", "with MODCACHE=off, programs use no directory", "")
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
		// That is about this tool. Whether the program has a warm cache, the entries tell.
		d.add(levelNote, "engine", plain(err), "whether the program's cache is warm, the entries below tell")
		return false
	}
	d.add(levelOK, "engine", "what this tool compiles is for the program", "")
	return true
}

// directory looks at the cache, and at what it holds for the modules.
func (d *doctor) directory(ctx context.Context, files []string, modules []*modcache.Module) {
	dir, err := d.dir.path()
	if err != nil {
		d.add(levelBad, "directory", plain(err), "")
		return
	}
	if _, err := readSecret(d.dir.keyFile); err != nil {
		d.add(levelBad, "key", plain(err), "")
		return
	}
	kind, err := kindOf(dir)
	switch {
	case err != nil:
		d.add(levelBad, "directory", plain(withModeHint(err)), "")
		return
	case kind == isForeign:
		d.add(levelBad, "directory", dir+" is not a cache directory of modcache", "name another with -dir")
		return
	case kind == isShared:
		d.add(levelNote, "directory", dir+" isn't marked as a cache: files of others are in it, or the mark was lost", "give the cache a directory of its own: commands that write don't touch this one")
	case kind == isVacant:
		d.add(levelBad, "directory", "there is no cache in "+dir, "nothing was stored there yet, or -dir is wrong, or programs run as another user (the default is in the user's cache directory)")
		if err := (dirfs.Rules{Keyed: d.dir.keyFile != "", Group: d.dir.group}).Judge(dir); err != nil {
			d.add(levelBad, "directory", "programs of this user can't make one there: "+plain(err), "")
		}
		return
	}
	disk, err := d.dir.open(ctx, nil, readOnly, false)
	switch {
	case errors.Is(err, modcache.ErrInsecureDir):
		d.add(levelBad, "directory", plain(err), "programs of this user refuse it as well: code in it runs in their processes")
		return
	case err != nil:
		d.add(levelBad, "directory", plain(err), "")
		return
	}
	defer disk.Close()
	d.add(levelOK, "directory", dir+" is a cache that programs of this user accept", "")
	if err := writable(dir); err != nil {
		d.add(levelWarn, "directory", "can't be written by this user: "+err.Error(), "fine for Options.ReadOnly; otherwise nothing new is stored")
	}
	d.space(dir)
	d.contents(ctx, disk, files, modules)
}

func (d *doctor) space(dir string) {
	free, total, err := freeSpace(dir)
	if err != nil {
		return
	}
	// What a Disk leaves free unless DiskOptions.MinFree says otherwise.
	keep := min(total/20, 1<<30)
	text := fmt.Sprintf("%s free of %s", bytesize.Format(free), bytesize.Format(total))
	if free < keep {
		d.add(levelWarn, "space", text+"; programs leave "+bytesize.Format(keep)+" free and evict or refuse entries below that", "make room, or set DiskOptions.MinFree")
		return
	}
	d.add(levelOK, "space", text, "")
}

// contents is what is stored, by engine and for the modules.
func (d *doctor) contents(ctx context.Context, disk *modcache.Disk, files []string, modules []*modcache.Module) {
	sum, err := summarize(ctx, disk, d.keyer.engine.id)
	if err != nil {
		d.add(levelBad, "entries", plain(err), "")
		return
	}
	mine := 0
	for _, en := range sum.Engines {
		text := fmt.Sprintf("%s, %s, of %s", plural(en.Entries, "entry", "entries"), bytesize.Format(en.Bytes), en.Engine)
		if en.This {
			mine = en.Entries
			d.add(levelOK, "entries", text+", which is the engine in question", "")
		} else {
			d.add(levelNote, "entries", text, "")
		}
	}
	switch {
	case sum.Served > 0 && sum.Served == sum.Entries-sum.Unreadable:
		d.add(levelBad, "entries", "all are of a server, for its clients: programs don't find them here", "give the URL of the server")
	case mine > 0:
	case sum.Entries-sum.Unreadable > 0:
		d.add(levelBad, "entries", "none is of the engine in question: "+d.keyer.engine.id,
			"wazero was updated, replaced or vendored in one of the programs; warm the cache with the new one")
	default:
		d.add(levelBad, "entries", "there are none that can be used", "run the program, or modcache warm")
	}
	for _, k := range sum.Other {
		d.add(levelNote, "files", fmt.Sprintf("%d %s, %s", k.Files, k.Kind, bytesize.Format(k.Bytes)), "")
	}
	for i, m := range modules {
		d.module(ctx, disk, files[i], m)
	}
	if sum.sealed > 0 {
		d.add(levelBad, "entries", plural(sum.sealed, "entry is", "entries are")+" sealed with another secret than programs with this -key-file use",
			"give all programs the same DiskOptions.Key")
	}
	if damaged := sum.Unreadable - sum.sealed; damaged > 0 {
		d.add(levelWarn, "entries", plural(damaged, "entry is", "entries are")+" damaged or can't be read", "modcache verify says which and why")
	}
}

// module says whether a runtime finds the code of a module, and what is there
// instead.
func (d *doctor) module(ctx context.Context, disk *modcache.Disk, file string, m *modcache.Module) {
	d.exceptions(file, m)
	_, unknown := d.keyer.key(m)
	if unknown == nil {
		size, err := d.load(ctx, disk, m)
		if d.loaded(file, size, err) {
			return
		}
	}
	ofEngine, engines, dropIn := d.related(ctx, disk, m.Fingerprint())
	switch {
	case unknown != nil && ofEngine > 0:
		d.add(levelNote, "module", fmt.Sprintf("%s has %s of the engine in question", file, plural(ofEngine, "entry", "entries")), "whether one is for these settings only a tool with that wazero can tell")
	case ofEngine > 0:
		d.add(levelBad, "module", fmt.Sprintf("%s is there for the engine in question, but not for this platform, CPU and these settings", file),
			"compare the program's RuntimeConfig with the flags given here; every setting is a part of the key")
	case len(engines) > 0:
		d.add(levelBad, "module", fmt.Sprintf("%s is there for another engine only: %s", file, engines[0]), "warm the cache with the wazero in question")
	case dropIn > 0:
		d.add(levelBad, "module", fmt.Sprintf("%s is not there for runtimes", file),
			fmt.Sprintf("%s of the drop-in, which don't say which module they are of: see modcache warm -require -drop-in", plural(dropIn, "entry is", "entries are")))
	default:
		d.add(levelBad, "module", fmt.Sprintf("%s is not there: never compiled with this cache, or dropped since, or its bytes were others", file), "fingerprint "+m.Fingerprint().String())
	}
}

// loaded says what became of loading a module, unless it isn't there.
func (d *doctor) loaded(file string, size int64, err error) bool {
	switch {
	case err == nil:
		d.add(levelOK, "module", fmt.Sprintf("%s is there: a runtime loads it, %s of machine code", file, bytesize.Format(size)), "")
	case !errors.Is(err, modcache.ErrMiss):
		d.add(levelBad, "module", fmt.Sprintf("%s: %s", file, plain(err)), "")
	default:
		return false
	}
	return true
}

func (d *doctor) exceptions(file string, m *modcache.Module) {
	if throws(m.Bytes()) {
		d.add(levelWarn, "module", file+" uses exceptions, with which a hostile guest can corrupt this process's memory under wazero up to v1.12",
			"don't run it if you don't trust it; see docs/hardening.md")
	}
}

// throws reports whether the module has tags, without which there are no exceptions.
func throws(wasm []byte) bool {
	const tags = 13
	o, err := wasmbin.Scan(wasm)
	return err == nil && slices.ContainsFunc(o.Sections, func(s wasmbin.Section) bool { return s.ID == tags })
}

// load does what a program does that must find the module, and returns the size of its
// code.
func (d *doctor) load(ctx context.Context, store modcache.Store, m *modcache.Module) (int64, error) {
	rc, err := d.config()
	if err != nil {
		return 0, err
	}
	return loadStored(ctx, store, rc, d.keyer.engine.id, m)
}

// related counts what is there of a module for the engine in question, lists the other
// engines it is there for, and counts entries that don't say their module. An alias that leads to it is none of it.
func (d *doctor) related(ctx context.Context, disk *modcache.Disk, module modcache.Fingerprint) (ofEngine int, engines []string, dropIn int) {
	for e, err := range disk.Walk(ctx) {
		if err != nil {
			break
		}
		mine := e.Info.Engine == d.keyer.engine.id
		switch {
		case e.Err != nil || isServed(e) || isAlias(e.Info):
		case e.Info.Module == (modcache.Fingerprint{}):
			if mine {
				dropIn++
			}
		case e.Info.Module != module:
		case mine:
			ofEngine++
		default:
			engines = append(engines, e.Info.Engine)
		}
	}
	slices.SortFunc(engines, cmp.Compare[string])
	return ofEngine, slices.Compact(engines), dropIn
}

func (d *doctor) print(s *streams) {
	t := s.table()
	for _, f := range d.findings {
		lines := strings.Split(f.Text, "\n")
		fmt.Fprintf(t, "%s\t%s\t%s\n", f.Level, f.About, printable(lines[0]))
		for _, line := range lines[1:] {
			fmt.Fprintf(t, "\t\t%s\n", printable(line))
		}
		if f.Advice != "" {
			fmt.Fprintf(t, "\t\t→ %s\n", f.Advice)
		}
	}
	_ = t.Flush()
}

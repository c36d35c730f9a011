package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bytesize"
	"github.com/modcache/modcache/internal/frame"
	"github.com/modcache/modcache/internal/wasmbin"
)

// selection picks entries of a cache.
type selection struct {
	engineFlags
	mine   bool
	others bool
	unused age
	module string
}

func (sel *selection) register(fs *flag.FlagSet) {
	sel.engineFlags.register(fs)
	fs.BoolVar(&sel.mine, "this-engine", false, "only entries of this tool's wazero, or that of -program or -engine-id")
	fs.BoolVar(&sel.others, "other-engines", false, "only entries of all other engines")
	sel.unused = -1 // no filter, which 0 is
	fs.Var(&sel.unused, "unused-for", "only entries that weren't used for so long, such as `30d` or 12h")
	fs.StringVar(&sel.module, "module", "", "only what programs find for the module in this file, such as `plugin.wasm`; those of the drop-in don't tell,\nand code of another spelling is only known for programs with wazero's default settings")
}

func (sel *selection) isEmpty() bool {
	return !sel.mine && !sel.others && sel.unused < 0 && sel.module == ""
}

// minPrefix is how many digits of a key name an entry.
const minPrefix = 8

// pick returns the entries that all flags and one of the prefixes, if there are
// any, select. Entries that can't be read are selected by key and time only. If a part of
// the directory can't be listed, it returns those of the others, and an error; otherwise nil with an error.
// d is read-only, as engineOf wants it.
func (sel *selection) pick(ctx context.Context, d *modcache.Disk, prefixes []string) ([]modcache.DiskEntry, error) {
	if sel.mine && sel.others {
		return nil, usagef("-this-engine and -other-engines exclude each other")
	}
	for _, p := range prefixes {
		if len(p) < minPrefix || len(p) > 64 || strings.Trim(p, "0123456789abcdef") != "" {
			shown, hint := strconv.Quote(p), ""
			if strings.ContainsAny(p, "./:@") {
				hint = "; a URL begins with https:// or another scheme"
			}
			if strings.Contains(p, "@") { // behind a password
				shown = "an operand"
			}
			return nil, usagef("%s is not a key: give at least the first %d of its lowercase hexadecimal digits, as ls prints them%s", shown, minPrefix, hint)
		}
	}
	var en engine
	var modules []modcache.Fingerprint
	var err error
	if sel.mine || sel.others {
		if en, err = sel.resolve(); err != nil {
			return nil, err
		}
	}
	if sel.module != "" {
		if modules, err = sel.codeOf(ctx, d); err != nil {
			return nil, err
		}
	}
	picked := []modcache.DiskEntry{}
	met := make([]bool, len(prefixes))
	now := time.Now()
	var unlisted error
	for e, err := range d.Walk(ctx) {
		if err != nil {
			unlisted = err
			break // it comes last
		}
		at := slices.IndexFunc(prefixes, func(p string) bool { return strings.HasPrefix(e.Key.String(), p) })
		switch {
		case len(prefixes) > 0 && at < 0,
			sel.unused >= 0 && now.Sub(e.Used) < time.Duration(sel.unused),
			e.Err != nil && (sel.mine || sel.others || sel.module != ""),
			sel.mine && engineOf(ctx, d, e) != en.id,
			sel.others && slices.Contains([]string{en.id, frame.EntryEngine}, engineOf(ctx, d, e)), // the latter may be anybody's
			sel.module != "" && !slices.Contains(modules, e.Info.Module):
			continue
		}
		if at >= 0 {
			met[at] = true
		}
		picked = append(picked, e)
	}
	slices.SortFunc(picked, func(a, b modcache.DiskEntry) int {
		return cmp.Or(b.Used.Compare(a.Used), slices.Compare(a.Key[:], b.Key[:]))
	})
	if i := slices.Index(met, false); i >= 0 {
		return nil, cmp.Or(unlisted, error(foundError(fmt.Sprintf("no entry that is selected has a key that begins with %s", prefixes[i]))))
	}
	if sel.module != "" && len(picked) == 0 {
		return nil, cmp.Or(ctx.Err(), unlisted, error(foundError("no entry that is selected has the code of "+printable(sel.module))))
	}
	return picked, cmp.Or(ctx.Err(), unlisted)
}

// codeOf returns the modules whose code programs use for the selected one: itself, and the spelling to which aliases lead. These lie
// under keys that the settings of the programs are a part of, which aren't known here.
func (sel *selection) codeOf(ctx context.Context, d *modcache.Disk) ([]modcache.Fingerprint, error) {
	wasm, err := readModule(ctx, sel.module)
	if err != nil {
		return nil, err
	}
	m := modcache.NewModule(wasm)
	modules := []modcache.Fingerprint{m.Fingerprint()}
	k, err := newKeyer(ctx, &sel.engineFlags, &defaultConfig)
	if err != nil {
		if sel.program != "" || sel.id != "" {
			return nil, err
		}
		return modules, nil // nobody has told whose keys to look for
	}
	defer k.close(ctx)
	spellings := []*modcache.Module{m}
	if o, err := wasmbin.Scan(wasm); err == nil && !o.HasDebug { // with debug info, it shares nothing
		if canonical, err := modcache.Canonicalize(wasm); err == nil {
			spellings = append(spellings, modcache.NewModule(canonical))
		}
	}
	for _, spelling := range spellings {
		key, err := k.key(spelling)
		if err != nil {
			break
		}
		if e, ok, err := d.Stat(ctx, key); err != nil {
			return nil, err
		} else if ok && e.Err == nil && e.Info.Module != (modcache.Fingerprint{}) {
			modules = append(modules, e.Info.Module)
		}
	}
	return modules, nil
}

// entryJSON is how entries look to scripts.
type entryJSON struct {
	Key         string     `json:"key"`
	Bytes       int64      `json:"bytes"` // on disk
	CodeBytes   int64      `json:"code_bytes,omitempty"`
	Used        time.Time  `json:"used"`
	Created     *time.Time `json:"created,omitempty"`
	Engine      string     `json:"engine,omitempty"`
	Name        string     `json:"name,omitempty"`   // of the module
	Module      string     `json:"module,omitempty"` // fingerprint; none for the drop-in
	Alias       bool       `json:"alias,omitempty"`  // leads to the code of the module, in another entry
	WasmBytes   int64      `json:"wasm_bytes,omitempty"`
	CompileTime int64      `json:"compile_time_ns,omitempty"`
	Error       string     `json:"error,omitempty"`
}

func jsonOf(e modcache.DiskEntry) entryJSON {
	j := entryJSON{
		Key: e.Key.String(), Bytes: e.Stored, CodeBytes: e.Size, Used: sane(e.Used), Engine: e.Info.Engine,
		Name: e.Info.Name, WasmBytes: e.Info.WasmSize, CompileTime: int64(e.Info.CompileTime),
	}
	if e.Err != nil {
		j.Error = troubleText(e.Err)
		return j
	}
	if created := sane(e.Info.Created); !created.IsZero() {
		j.Created = &created
	}
	if e.Info.Module != (modcache.Fingerprint{}) {
		j.Module, j.Alias = e.Info.Module.String(), isAlias(e.Info)
	}
	return j
}

func jsonOfAll(entries []modcache.DiskEntry) []entryJSON {
	all := []entryJSON{}
	for _, e := range entries {
		all = append(all, jsonOf(e))
	}
	return all
}

// isAlias reports whether an entry holds no code, but leads from one spelling of a
// module to that of another.
func isAlias(i modcache.Info) bool { return frame.IsAlias(i.Module, i.WasmSize) }

// code is what an entry holds, or leads to.
type code struct {
	engine string
	module modcache.Fingerprint
}

func codeOf(i modcache.Info) code { return code{i.Engine, i.Module} }

// codes returns all that entries hold.
func codes(entries []modcache.DiskEntry) map[code]bool {
	held := make(map[code]bool)
	for _, e := range entries {
		if !isAlias(e.Info) {
			held[codeOf(e.Info)] = true
		}
	}
	return held
}

var lsCommand = command{
	name: "ls", args: "[key...]",
	short: "list what a cache holds",
	long: `
Lists the entries of a cache, those used last first, without reading the
machine code in them or counting as a use. Keys may be given by their first 8
digits or more. Names are those of files that modcache warm compiled, those
that programs gave with Module.Named, or those in the modules' name sections.
Other spellings of a module find its code by aliases, which are listed only if
they are asked for by key, or if the code is gone. With -json, each entry and
alias is one line of JSON, with all that is known of it. If a part of the
directory can't be listed, the exit code is 1. Entries that modcache serve
keeps for its clients have the engine that their code is for.`,
	make: func(fs *flag.FlagSet) action {
		var dir dirFlags
		var sel selection
		dir.register(fs)
		sel.register(fs)
		asJSON := fs.Bool("json", false, "one line of JSON per entry")
		long := fs.Bool("l", false, "keys, modules and engines in full length")
		return func(ctx context.Context, s *streams, keys []string) error {
			d, err := dir.open(ctx, s, readOnly, false)
			if err != nil {
				return err
			}
			defer d.Close()
			entries, err := sel.pick(ctx, d, keys)
			if entries == nil {
				return err
			}
			nameEngines(ctx, d, entries)
			if *asJSON {
				lines := bufio.NewWriter(s.out)
				out := json.NewEncoder(lines)
				for _, e := range entries {
					_ = out.Encode(jsonOf(e))
				}
				_ = lines.Flush()
				return err
			}
			printEntries(s, entries, *long)
			return err
		}
	},
}

func printEntries(s *streams, entries []modcache.DiskEntry, long bool) {
	if len(entries) == 0 {
		fmt.Fprintln(s.out, "no entries")
		return
	}
	const digits = 16
	short := func(hex string) string {
		if long {
			return hex
		}
		return hex[:digits]
	}
	listed := codes(entries)
	aliases := 0
	t := s.table()
	fmt.Fprintln(t, "KEY\tNAME\tMODULE\tON DISK\tWASM\tCOMPILED IN\tUSED\tENGINE")
	now := time.Now()
	for _, e := range entries {
		if e.Err != nil {
			fmt.Fprintf(t, "%s\t?\t?\t%s\t?\t?\t%s\t%s\n", short(e.Key.String()), bytesize.Format(e.Stored), agoText(now, e.Used), troubleText(e.Err))
			continue
		}
		module, wasm := "drop-in", "-"
		if e.Info.Module != (modcache.Fingerprint{}) {
			module, wasm = short(e.Info.Module.String()), bytesize.Format(e.Info.WasmSize)
		}
		if isAlias(e.Info) {
			if listed[codeOf(e.Info)] {
				aliases++
				continue
			}
			wasm = "alias"
		}
		engine := printable(e.Info.Engine)
		if !long {
			engine = shortEngine(engine)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", short(e.Key.String()), cmp.Or(printable(e.Info.Name), "-"), module, bytesize.Format(e.Stored), wasm,
			tookText(e.Info.CompileTime), agoText(now, e.Used), engine)
	}
	_ = t.Flush()
	if aliases > 0 {
		fmt.Fprintf(s.out, "and %s, by which other spellings of these modules find the same code; -json lists all\n", plural(aliases, "alias", "aliases"))
	}
}

// shortEngine abbreviates an identity to what tells two apart.
func shortEngine(id string) string {
	name, sum, ok := strings.Cut(id, " h1:")
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		name = name[i+1:]
	}
	const digits = 8
	if ok {
		return name + " h1:" + sum[:min(len(sum), digits)]
	}
	if hash, ok := strings.CutPrefix(id, "executable "); ok {
		return "executable " + hash[:min(len(hash), digits)]
	}
	return id
}

// printable keeps what a file says from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"flag"
	"fmt"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bytesize"
	"github.com/modcache/modcache/internal/wasmbin"
)

// moduleReport is what key tells about one module.
type moduleReport struct {
	File        string `json:"file"`
	Bytes       int    `json:"bytes"`
	Fingerprint string `json:"fingerprint"`
	Canonical   string `json:"canonical,omitempty"`
	// NotCanonical says why there is no canonical fingerprint.
	NotCanonical string `json:"not_canonical,omitempty"`
	Functions    int    `json:"functions"`
	Imported     int    `json:"imported_functions"`
	DebugInfo    bool   `json:"debug_info"` // there are DWARF sections
	Key          string `json:"key,omitempty"`
	Engine       string `json:"engine,omitempty"`
	// NoKey says why there is no key.
	NoKey string `json:"no_key,omitempty"`
}

// keyReport is what key prints.
type keyReport struct {
	Modules    []moduleReport `json:"modules"`
	Comparison *comparison    `json:"comparison,omitempty"`
}

var keyCommand = command{
	name: "key", args: "module [module]",
	short: "print a module's fingerprints and key, or why two don't share code",
	long: `
Prints the fingerprint of a module, which is the BLAKE3 hash of its bytes; the
canonical fingerprint, which builds have in common that differ only in names,
notes and spelling, and share one machine code; and the key of the module for
runtimes (not the drop-in) with this tool's wazero and the given settings.

Of two modules it says whether they share machine code, and if not, what
differs first. That tells why a rebuilt module is compiled again.`,
	make: func(fs *flag.FlagSet) action {
		var en engineFlags
		var conf configFlags
		en.register(fs)
		conf.register(fs)
		asJSON := fs.Bool("json", false, "one JSON object")
		return func(ctx context.Context, s *streams, files []string) error {
			if len(files) < 1 || len(files) > 2 {
				return usagef("name one module, or two to compare")
			}
			keyer, err := newKeyer(ctx, &en, &conf)
			if err != nil {
				return err
			}
			defer keyer.close(ctx)
			var r keyReport
			var modules [][]byte
			for _, file := range files {
				wasm, err := readModule(ctx, file)
				if err != nil {
					return err
				}
				m, err := keyer.describe(file, wasm)
				if err != nil {
					return err
				}
				r.Modules = append(r.Modules, m)
				modules = append(modules, wasm)
			}
			if len(modules) == 2 {
				r.Comparison = compare(modules[0], modules[1])
			}
			if *asJSON {
				return s.json(r)
			}
			r.print(s)
			return nil
		}
	},
}

// keyer knows the keys of one engine and configuration.
type keyer struct {
	engine   engine
	mismatch error   // this tool's keys aren't the engine's
	degraded []error // what modcache can't do with this tool's wazero
	cache    *modcache.Cache
	r        *modcache.Runtime
}

func newKeyer(ctx context.Context, e *engineFlags, c *configFlags) (*keyer, error) {
	rc, err := c.config()
	if err != nil {
		return nil, err
	}
	en, err := e.resolve()
	if err != nil {
		return nil, err
	}
	k := &keyer{engine: en, mismatch: en.check()}
	o := &modcache.Options{EngineID: en.id, OnEvent: func(e modcache.Event) {
		if e.Kind == modcache.EventDegraded {
			k.degraded = append(k.degraded, e.Err)
		}
	}}
	if k.cache, err = modcache.New(modcache.NewMemory(nil), o); err != nil {
		return nil, err
	}
	if k.r, err = k.cache.NewRuntime(ctx, rc); err != nil {
		k.degraded = append(k.degraded, err)
	}
	return k, nil
}

// key fails where there are no keys.
func (k *keyer) key(m *modcache.Module) (modcache.Key, error) {
	if k.mismatch != nil {
		return modcache.Key{}, k.mismatch
	}
	var key modcache.Key
	if k.r != nil {
		key = k.r.Key(m)
	}
	if key == (modcache.Key{}) {
		return key, cmp.Or(append(k.degraded, modcache.ErrUnsupportedWazero)...)
	}
	return key, nil
}

func (k *keyer) close(ctx context.Context) {
	if k.r != nil {
		_ = k.r.Close(ctx)
	}
	_ = k.cache.Close(ctx)
}

func (k *keyer) describe(file string, wasm []byte) (moduleReport, error) {
	outline, err := wasmbin.Scan(wasm)
	if err != nil {
		return moduleReport{}, fmt.Errorf("%s: %w", file, err)
	}
	m := modcache.NewModule(wasm)
	r := moduleReport{
		File: file, Bytes: len(wasm), Fingerprint: m.Fingerprint().String(),
		Functions: int(outline.DefinedFuncs), Imported: int(outline.ImportedFuncs), DebugInfo: outline.HasDebug,
	}
	if canonical, err := modcache.Canonical(wasm); err != nil {
		r.NotCanonical = plain(err)
	} else {
		r.Canonical = canonical.String()
	}
	if key, err := k.key(m); err != nil {
		r.NoKey = plain(err)
	} else {
		r.Key, r.Engine = key.String(), k.engine.id
	}
	return r, nil
}

func (r keyReport) print(s *streams) {
	t := s.table()
	for i, m := range r.Modules {
		if i > 0 {
			fmt.Fprintln(t)
		}
		fmt.Fprintf(t, "file\t%s\n", printable(m.File))
		fmt.Fprintf(t, "size\t%s, %s, %d imported\n", bytesize.Format(int64(m.Bytes)), plural(m.Functions, "function", "functions"), m.Imported)
		fmt.Fprintf(t, "fingerprint\t%s\n", m.Fingerprint)
		if m.Canonical != "" {
			fmt.Fprintf(t, "canonical\t%s\n", m.Canonical)
		} else {
			fmt.Fprintf(t, "canonical\tnone: %s\n", m.NotCanonical)
		}
		if m.Key != "" {
			fmt.Fprintf(t, "key\t%s\n", m.Key)
			fmt.Fprintf(t, "engine\t%s\n", printable(m.Engine))
		} else {
			fmt.Fprintf(t, "key\tnone: %s\n", m.NoKey)
		}
	}
	_ = t.Flush()
	if c := r.Comparison; c != nil {
		fmt.Fprintf(s.out, "\n%s\n", c.Verdict)
		if c.SameCode {
			sharing := "a Runtime uses the same machine code for both"
			if r.Modules[0].DebugInfo || r.Modules[1].DebugInfo {
				sharing += ", but only with -no-debug-info: they have DWARF sections, which refer to the exact code"
			}
			fmt.Fprintln(s.out, sharing)
		}
	}
}

// comparison says whether two modules share machine code.
type comparison struct {
	Verdict  string `json:"verdict"`   // with the first reason, if they don't
	SameCode bool   `json:"same_code"` // a Runtime can use the same for both
}

func compare(a, b []byte) *comparison {
	if bytes.Equal(a, b) {
		return &comparison{"the modules are identical", true}
	}
	canonicalA, errA := modcache.Canonicalize(a)
	canonicalB, errB := modcache.Canonicalize(b)
	switch err := cmp.Or(errA, errB); {
	case err != nil:
		return &comparison{"the modules differ, and at least one has no canonical encoding that tells whether only in spelling: " + plain(err), false}
	case bytes.Equal(canonicalA, canonicalB):
		return &comparison{"the modules say the same: they differ in spelling or custom sections only", true}
	}
	return &comparison{"the modules are different programs: " + firstDifference(canonicalA, canonicalB), false}
}

var sectionNames = [...]string{
	"custom", "type", "import", "function", "table", "memory", "global", "export", "start", "element", "code", "data",
	"data count", "tag",
}

// firstDifference says where two canonical encodings begin to differ.
func firstDifference(a, b []byte) string {
	outlineA, _ := wasmbin.Scan(a) // what is canonical can be scanned
	outlineB, _ := wasmbin.Scan(b)
	for i, sa := range outlineA.Sections {
		if i == len(outlineB.Sections) || outlineB.Sections[i].ID != sa.ID {
			break
		}
		sb, name := outlineB.Sections[i], sectionNames[sa.ID]
		contentA, contentB := a[sa.Body:sa.End], b[sb.Body:sb.End]
		switch {
		case bytes.Equal(contentA, contentB):
		case name == "code" && outlineA.DefinedFuncs == outlineB.DefinedFuncs:
			return fmt.Sprintf("function %d is the first that differs", int(outlineA.ImportedFuncs)+differingBody(contentA, contentB))
		default:
			return fmt.Sprintf("section %q is the first that differs", name)
		}
	}
	return "they don't have the same sections"
}

// differingBody returns which body is the first that differs between two code sections
// with equally many of them.
func differingBody(a, b []byte) (i int) {
	same := 0
	for a[same] == b[same] {
		same++
	}
	_, pos := binary.Uvarint(a) // how many there are
	for ; ; i++ {
		size, n := binary.Uvarint(a[pos:])
		if pos += n + int(size); same < pos {
			return i
		}
	}
}

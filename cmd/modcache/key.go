package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"text/tabwriter"

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
	short: "print a module's fingerprints and key, or what differs between two",
	long: `
Prints the fingerprint of a module, which is the BLAKE3 hash of its bytes; the
canonical fingerprint, which builds have in common that differ only in names,
notes and spelling, and share one machine code; and the key of the module for
runtimes (not the drop-in) with this tool's wazero and the given settings.

Of two modules it says what differs: nothing but spelling, custom sections, or
which functions. That tells why a rebuilt module is compiled again.`,
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
				wasm, err := os.ReadFile(file)
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
				if r.Comparison, err = compare(modules[0], modules[1]); err != nil {
					return err
				}
			}
			if *asJSON {
				return writeJSON(s, r)
			}
			return r.print(s)
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
	k.r, err = k.cache.NewRuntime(ctx, rc)
	return k, err
}

// key fails where there are no keys.
func (k *keyer) key(m *modcache.Module) (modcache.Key, error) {
	if k.mismatch != nil {
		return modcache.Key{}, k.mismatch
	}
	key := k.r.Key(m)
	if key == (modcache.Key{}) {
		return key, cmp.Or(errors.Join(k.degraded...), modcache.ErrUnsupportedWazero)
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

func (r keyReport) print(s *streams) error {
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
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
	if err := t.Flush(); err != nil || r.Comparison == nil {
		return err
	}
	return r.Comparison.print(s)
}

package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"image"

	"time"

	"github.com/1password/onepassword-sdk-go"
	extism "github.com/extism/go-sdk"
	"github.com/gen2brain/webp"
	"github.com/klippa-app/go-pdfium/requests"
	"github.com/klippa-app/go-pdfium/webassembly"
	"github.com/knqyf263/go-plugin/examples/helloworld/greeting"
	"github.com/ncruces/go-sqlite3"
	_ "github.com/ncruces/go-sqlite3/embed"
	_ "github.com/open-policy-agent/opa/features/wasm"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/wasilibs/go-re2"
)

// embedder is a library that embeds wazero, and the least that a program does with it.
type embedder struct {
	name   string
	guests []guest // that don't come with its package
	// run goes from nothing to the result of a first call, and checks it. Guests are files by name.
	run func(ctx context.Context, guests map[string]string) error
}

// guest is a module in a file: one that a Go module ships, or a package that is built for WASI.
type guest struct {
	name         string
	module, file string
	pkg          string
}

const (
	extismSDK = "github.com/extism/go-sdk"
	goPlugin  = "github.com/knqyf263/go-plugin/examples/helloworld/plugin-morning"
)

var embedders = []embedder{
	{name: "go-re2", run: func(context.Context, map[string]string) error {
		return check(re2.MustCompile(`h(.*)o`).FindStringSubmatch("hello")[1], "ell")
	}},
	{name: "go-sqlite3", run: func(context.Context, map[string]string) error { return selectOne() }},
	{name: "go-pdfium", run: func(context.Context, map[string]string) error {
		return countPages(webassembly.Config{MinIdle: 1, MaxIdle: 1, MaxTotal: 1})
	}},
	{name: "1Password SDK", run: func(ctx context.Context, _ map[string]string) error {
		return onepassword.Secrets.ValidateSecretReference(ctx, "op://vault/item/field")
	}},
	{name: "gen2brain/webp", run: func(context.Context, map[string]string) error {
		var out bytes.Buffer
		if err := webp.Encode(&out, image.NewRGBA(image.Rect(0, 0, 2, 2))); err != nil {
			return err
		}
		return check(string(out.Bytes()[8:12]), "WEBP")
	}},
	{name: "OPA, wasm target", run: func(ctx context.Context, _ map[string]string) error {
		policy := rego.New(rego.Target("wasm"), rego.Query("data.example.allow"),
			rego.Module("example.rego", "package example\nallow := input.user == \"alice\""))
		query, err := policy.PrepareForEval(ctx)
		if err != nil {
			return err
		}
		results, err := query.Eval(ctx, rego.EvalInput(map[string]any{"user": "alice"}))
		if err != nil {
			return err
		}
		return check(results[0].Expressions[0].Value, any(true))
	}},
	{"go-plugin, Go guest", []guest{{name: "morning.wasm", pkg: goPlugin}}, func(ctx context.Context, guests map[string]string) error {
		loader, err := greeting.NewGreeterPlugin(ctx)
		if err != nil {
			return err
		}
		return greet(ctx, loader, guests["morning.wasm"])
	}},
	extismPlugins("extism, Go guest", extismCall{"std_command.wasm", "_start", "hello a"}),
	extismPlugins("extism, TinyGo guest", extismCall{"count_vowels.wasm", "count_vowels", `{"count":1,"total":1,"vowels":"aeiouAEIOU"}`}),
	extismPlugins("extism, 10 small plugins",
		extismCall{"config.wasm", "run_test", ""}, extismCall{"fs.wasm", "run_test", ""},
		extismCall{"hello.wasm", "run_test", ""}, extismCall{"input_offset.wasm", "input_offset_length", ""},
		extismCall{"log.wasm", "run_test", ""}, extismCall{"noop.wasm", "run_test", ""},
		extismCall{"println.wasm", "run_test", ""}, extismCall{"replace.wasm", "run_test", ""},
		extismCall{"sleep.wasm", "run_test", ""}, extismCall{"var.wasm", "run_test", ""},
	),
	extismPlugins("extism, one of 1.5 kB", extismCall{"hello.wasm", "run_test", ""}),
}

// extismCall is an export of a plugin, and what it is to return for "a"; "" is anything.
type extismCall struct{ plugin, export, want string }

func extismPlugins(name string, calls ...extismCall) embedder {
	e := embedder{name: name, run: func(ctx context.Context, guests map[string]string) error {
		for _, c := range calls {
			if err := callExtism(ctx, extism.PluginConfig{EnableWasi: true}, extismFile(guests[c.plugin]), c); err != nil {
				return fmt.Errorf("%s: %w", c.plugin, err)
			}
		}
		return nil
	}}
	for _, c := range calls {
		e.guests = append(e.guests, guest{name: c.plugin, module: extismSDK, file: "wasm/" + c.plugin})
	}
	return e
}

func extismFile(name string) extism.Manifest {
	return extism.Manifest{Wasm: []extism.Wasm{extism.WasmFile{Path: name}}}
}

func callExtism(ctx context.Context, config extism.PluginConfig, manifest extism.Manifest, c extismCall) error {
	compiled, err := extism.NewCompiledPlugin(ctx, manifest, config, nil)
	if err != nil {
		return err
	}
	plugin, err := compiled.Instance(ctx, extism.PluginInstanceConfig{})
	if err != nil {
		return err
	}
	_, out, err := plugin.Call(c.export, []byte("a"))
	if err != nil || c.want == "" {
		return err
	}
	return check(string(out), c.want)
}

func selectOne() error {
	db, err := sqlite3.Open(":memory:")
	if err != nil {
		return err
	}
	stmt, _, err := db.Prepare(`SELECT 6 * 7`)
	if err != nil {
		return err
	}
	stmt.Step()
	return errors.Join(check(stmt.ColumnInt(0), 42), stmt.Err())
}

func countPages(config webassembly.Config) error {
	pool, err := webassembly.Init(config)
	if err != nil {
		return err
	}
	instance, err := pool.GetInstance(time.Minute)
	if err != nil {
		return err
	}
	doc, err := instance.OpenDocument(&requests.OpenDocument{File: &onePage})
	if err != nil {
		return err
	}
	pages, err := instance.FPDF_GetPageCount(&requests.FPDF_GetPageCount{Document: doc.Document})
	if err != nil {
		return err
	}
	return check(pages.PageCount, 1)
}

func greet(ctx context.Context, loader *greeting.GreeterPlugin, file string) error {
	plugin, err := loader.Load(ctx, file)
	if err != nil {
		return err
	}
	reply, err := plugin.Greet(ctx, &greeting.GreetRequest{Name: "gopher"})
	if err != nil {
		return err
	}
	return check(reply.GetMessage(), "Good morning, gopher")
}

// onePage is a document.
//
//go:embed testdata/page.pdf
var onePage []byte

func check[T comparable](got, want T) error {
	if got != want {
		return fmt.Errorf("the first call returned %v, want %v", got, want)
	}
	return nil
}

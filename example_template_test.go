package modcache_test

import (
	"context"
	"fmt"
	"log"

	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache"
)

// ExampleRuntime_NewTemplate has a module initialise itself once, and then makes an
// instance of its own for each request.
func ExampleRuntime_NewTemplate() {
	ctx := context.Background()
	cache, err := modcache.New(modcache.NewMemory(nil), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close(ctx)
	r, err := cache.NewRuntime(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close(ctx)

	// counter is a module whose function f returns how often it was called.
	tmpl, err := r.NewTemplate(ctx, modcache.NewModule(counter), &modcache.TemplateOptions{
		ID: "example/counted to two/1", // keeps the snapshot in the store
		Init: func(ctx context.Context, mod api.Module) error {
			for range 2 {
				if _, err := mod.ExportedFunction("f").Call(ctx); err != nil {
					return err
				}
			}
			return nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer tmpl.Close(ctx)

	for range 3 { // requests
		mod, err := tmpl.Instantiate(ctx, nil)
		if err != nil {
			log.Fatal(err)
		}
		results, err := mod.ExportedFunction("f").Call(ctx)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("call", results[0], "of this instance")
		if err := mod.Close(ctx); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// call 3 of this instance
	// call 3 of this instance
	// call 3 of this instance
}

// (global (mut i32) (i32.const 0))
// (func (export "f") (result i32) global.get 0 i32.const 1 i32.add global.set 0 global.get 0)
var counter = []byte("\x00asm\x01\x00\x00\x00" + "\x01\x05\x01\x60\x00\x01\x7f" + "\x03\x02\x01\x00" +
	"\x06\x06\x01\x7f\x01\x41\x00\x0b" + "\x07\x05\x01\x01f\x00\x00" + "\x0a\x0d\x01\x0b\x00\x23\x00\x41\x01\x6a\x24\x00\x23\x00\x0b")

// ExampleSlotHost_InstantiateTemplate gives each instance of a template host objects of its own.
func ExampleSlotHost_InstantiateTemplate() {
	ctx := context.Background()
	cache, err := modcache.New(modcache.NewMemory(nil), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close(ctx)
	r, err := cache.NewRuntime(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close(ctx)
	host, err := modcache.NewSlotHost[string](ctx, r)
	if err != nil {
		log.Fatal(err)
	}
	tmpl, err := host.NewTemplate(ctx, modcache.NewModule(counter), nil, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer tmpl.Close(ctx)

	var handles []modcache.Handle
	for _, visitor := range []string{"Ann", "Bob"} {
		mod, err := host.InstantiateTemplate(ctx, tmpl, nil, nil)
		if err != nil {
			log.Fatal(err)
		}
		defer mod.Close(ctx)
		handle, err := mod.Table().Insert(visitor)
		if err != nil {
			log.Fatal(err)
		}
		handles = append(handles, handle)
		for _, h := range handles {
			name, ok := mod.Table().Get(h)
			fmt.Printf("%s's instance: %q %t\n", visitor, name, ok)
		}
	}
	// Output:
	// Ann's instance: "Ann" true
	// Bob's instance: "" false
	// Bob's instance: "Bob" true
}

package modcache_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"strings"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache"
)

func ExampleSlotTable() {
	table := modcache.NewSlotTable[*strings.Reader](nil)
	defer table.Close()

	h, err := table.Insert(strings.NewReader("an object of the host"))
	if err != nil {
		log.Fatal(err)
	}
	if r, ok := table.Get(h); ok {
		fmt.Println(r.Len(), "bytes")
	}

	// A handle that was removed misses, even when its slot is in use again.
	if err := table.Remove(h); err != nil {
		log.Fatal(err)
	}
	if _, err := table.Insert(strings.NewReader("another")); err != nil {
		log.Fatal(err)
	}
	_, ok := table.Get(h)
	fmt.Println("still there:", ok)
	// Output:
	// 21 bytes
	// still there: false
}

func ExampleSlotTable_InsertChild() {
	table := modcache.NewSlotTable(&modcache.SlotOptions[string]{
		OnRelease: func(s string) { fmt.Println("released the", s) },
	})
	conn, _ := table.Insert("connection")
	stmt, _ := table.InsertChild(conn, "statement")
	if err := table.Remove(conn); errors.Is(err, modcache.ErrSlotInUse) {
		fmt.Println("the connection is in use")
	}
	table.Remove(stmt)
	table.Remove(conn)
	// Output:
	// the connection is in use
	// released the statement
	// released the connection
}

func ExampleSlotTable_Intern() {
	table := modcache.NewSlotTable[string](nil)
	open := func() (string, error) {
		fmt.Println("opening")
		return "the database", nil
	}
	a, _ := table.Intern("db", open)
	b, _ := table.Intern("db", open)
	fmt.Println("same handle:", a == b)

	table.Remove(a)
	_, ok := table.Get(b)
	fmt.Println("open after one Remove:", ok)
	table.Remove(b)
	_, ok = table.Get(b)
	fmt.Println("open after both:", ok)
	// Output:
	// opening
	// same handle: true
	// open after one Remove: true
	// open after both: false
}

func ExampleSlotTable_Share() {
	alice := modcache.NewSlotTable[string](nil)
	bob := modcache.NewSlotTable[string](nil)
	h, _ := alice.Insert("a document")

	_, ok := bob.Get(h)
	fmt.Println("bob reads by alice's handle:", ok)
	shared, _ := alice.Share(bob, h)
	alice.Close()
	doc, ok := bob.Get(shared)
	fmt.Println("bob reads by his own:", doc, ok)
	// Output:
	// bob reads by alice's handle: false
	// bob reads by his own: a document true
}

func ExampleSlotTable_Borrow() {
	table := modcache.NewSlotTable(&modcache.SlotOptions[string]{
		OnRelease: func(s string) { fmt.Println("released", s) },
	})
	h, _ := table.Insert("the file")
	if file, ok := table.Borrow(h); ok {
		table.Close() // by another goroutine, say
		fmt.Println("still using", file)
		table.Release(h)
	}
	// Output:
	// still using the file
	// released the file
}

func ExampleSlotTable_Leaks() {
	table := modcache.NewSlotTable(&modcache.SlotOptions[any]{Trace: true})
	table.Insert(strings.NewReader("forgotten"))
	for _, leak := range table.Leaks() {
		function, _, _ := strings.Cut(leak.Site, " ")
		fmt.Println(leak.Type, "from", function[strings.LastIndex(function, ".")+1:])
	}
	// Output: *strings.Reader from ExampleSlotTable_Leaks
}

func ExampleSlotAs() {
	table := modcache.NewSlotTable[any](nil)
	h, _ := table.Insert(strings.NewReader("read me"))
	if r, ok := modcache.SlotAs[io.Reader](table, h); ok {
		b, _ := io.ReadAll(r)
		fmt.Println(string(b))
	}
	_, ok := modcache.SlotAs[io.Writer](table, h)
	fmt.Println("a writer:", ok)
	// Output:
	// read me
	// a writer: false
}

func ExampleNewSlotQuota() {
	quota := modcache.NewSlotQuota(2) // for all tenants together
	a := modcache.NewSlotTable(&modcache.SlotOptions[int]{Quota: quota})
	b := modcache.NewSlotTable(&modcache.SlotOptions[int]{Quota: quota})
	a.Insert(1)
	b.Insert(2)
	_, err := b.Insert(3)
	fmt.Println(errors.Is(err, modcache.ErrSlotsFull))
	a.Close()
	_, err = b.Insert(3)
	fmt.Println(err)
	// Output:
	// true
	// <nil>
}

func ExampleSlotHost() {
	ctx := context.Background()
	r := wazero.NewRuntime(ctx)
	defer r.Close(ctx)
	host, err := modcache.NewSlotHost[string](ctx, r)
	if err != nil {
		log.Fatal(err)
	}

	// Host functions get the table of the module that calls them.
	open := host.Func(func(_ context.Context, _ api.Module, t *modcache.SlotTable[string], stack []uint64) {
		h, _ := t.Insert("an object")
		stack[0] = uint64(h) // 0 if the table is full
	})
	env := r.NewHostModuleBuilder("env")
	env.NewFunctionBuilder().WithGoModuleFunction(open, nil, []api.ValueType{api.ValueTypeI64}).Export("open")
	if _, err := host.ExportFunctions(env, api.ValueTypeI64).Instantiate(ctx); err != nil {
		log.Fatal(err)
	}

	// The guest exports a function open that calls the host's.
	guest := wasmModule(
		[]wasmImport{{module: "env", name: "open", results: []byte{wasmTypeI64}}},
		[]wasmFunc{{name: "open", results: []byte{wasmTypeI64}, body: wasmCall(0)}},
		wasmNoStart)
	compiled, err := r.CompileModule(ctx, guest)
	if err != nil {
		log.Fatal(err)
	}
	table := modcache.NewSlotTable(&modcache.SlotOptions[string]{
		OnRelease: func(s string) { fmt.Println("released", s) },
	})
	mod, err := host.Instantiate(ctx, compiled, wazero.NewModuleConfig(), table)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := mod.ExportedFunction("open").Call(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("the guest holds", table.Len())
	mod.Close(ctx) // or anything else that ends it
	// Output:
	// the guest holds 1
	// released an object
}

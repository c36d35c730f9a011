// Command sqlite runs SQLite, as github.com/ncruces/go-sqlite3 has it, on a modcache. That
// library is WebAssembly that wazero compiles in each process anew; it is used here
// unchanged, through the two variables that it has for this: its configuration, and its module,
// for which a stub stands in. Run it twice:
//
//	cd examples/sqlite && go run .
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/driver"
	_ "github.com/ncruces/go-sqlite3/embed"
	_ "github.com/ncruces/go-sqlite3/vfs/memdb"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache"
)

func main() {
	dir := flag.String("dir", "", "cache directory; the default is in your cache directory")
	flag.Parse()
	if err := run(context.Background(), os.Stdout, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "sqlite:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, dir string) error {
	cache, err := modcache.Open(dir, nil)
	if err != nil {
		return err
	}
	defer cache.Close(ctx)

	// Before the first connection. The other two settings are what go-sqlite3 chooses on
	// 64-bit machines if it isn't given a configuration.
	sqlite3.RuntimeConfig = wazero.NewRuntimeConfig().
		WithMemoryLimitPages(4096).
		WithCoreFeatures(api.CoreFeaturesV2).
		WithCompilationCache(cache.CompilationCache())

	start := time.Now()
	// What package embed has set. A stub is for this process, and for runtimes of this configuration.
	stub, err := cache.Stub(ctx, sqlite3.RuntimeConfig, modcache.NewModule(sqlite3.Binary))
	if err != nil {
		return err
	}
	sqlite3.Binary = stub
	if err := sqlite3.Initialize(); err != nil { // what the first connection would do
		return err
	}
	took := time.Since(start).Round(100 * time.Microsecond)
	if cache.Metrics().Compiles == 0 {
		fmt.Fprintf(out, "SQLite was loaded from the cache in %v\n", took)
	} else {
		fmt.Fprintf(out, "SQLite was compiled in %v\n", took)
	}
	return query(ctx, out)
}

// query is a program that knows nothing of all this.
func query(ctx context.Context, out io.Writer) error {
	db, err := driver.Open("file:/example.db?vfs=memdb")
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.ExecContext(ctx, `
		CREATE TABLE words (word TEXT PRIMARY KEY, n INT);
		INSERT INTO words VALUES ('one', 1), ('two', 2), ('three', 3)`)
	if err != nil {
		return err
	}
	var words string
	var sum int
	err = db.QueryRowContext(ctx, `SELECT group_concat(word, '+' ORDER BY n), sum(n) FROM words`).Scan(&words, &sum)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s = %d\n", words, sum)
	return err
}

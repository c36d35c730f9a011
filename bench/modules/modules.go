// Package modules keeps the Go modules that ship the WebAssembly modules we
// measure in go.mod, where go.sum pins them.
package modules

import (
	_ "github.com/1password/onepassword-sdk-go"
	_ "github.com/ncruces/go-sqlite3"
	_ "github.com/wasilibs/go-re2"
)

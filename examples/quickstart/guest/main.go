// Command guest is the module that quickstart compiles: an ordinary Go program,
// built for WASI.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"
)

func main() {
	var doc struct{ Words []string }
	if err := json.Unmarshal([]byte(`{"words": ["hello", "from", "a", "guest", "on"]}`), &doc); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(strings.Join(doc.Words, " "), runtime.GOOS+"/"+runtime.GOARCH)
}

// Command program prints what it knows about the wazero in it.
package main

import (
	"fmt"
	"log"

	"github.com/modcache/modcache/internal/wazerohook"
)

func main() {
	id, err := wazerohook.Identity()
	if err != nil {
		log.Fatal(err)
	}
	w, err := wazerohook.Probe()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(id, "|", w.Version)
}

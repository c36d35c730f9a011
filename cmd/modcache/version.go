package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/modcache/modcache"
)

// versions is what version prints.
type versions struct {
	Modcache string `json:"modcache"`
	Wazero   string `json:"wazero,omitempty"` // identity of the engine
	Problem  string `json:"problem,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

var versionCommand = command{
	name:  "version",
	short: "print the versions of modcache, wazero and Go in this tool",
	long: `
Prints which modcache, wazero and Go this tool was built with. The line of
wazero is the identity of the engine: a program finds what this tool compiles
if its own is the same.`,
	make: func(fs *flag.FlagSet) action {
		asJSON := fs.Bool("json", false, "one JSON object")
		return func(_ context.Context, s *streams, _ []string) error {
			v := versions{Modcache: ownVersion(), Go: runtime.Version(), Platform: platform()}
			var err error
			if v.Wazero, err = modcache.EngineID(); err != nil {
				v.Problem = plain(err)
			}
			if *asJSON {
				return s.json(v)
			}
			t := s.table()
			fmt.Fprintf(t, "modcache\t%s\nwazero\t%s\ngo\t%s\nplatform\t%s\n", v.Modcache, cmp.Or(v.Wazero, v.Problem), v.Go, v.Platform)
			return t.Flush()
		}
	},
}

// ownVersion returns that of the module of this command, which is the main module or one that it requires.
func ownVersion() string {
	const path = "github.com/modcache/modcache"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	modules := append([]*debug.Module{&info.Main}, info.Deps...)
	for _, m := range modules {
		if m.Path == path {
			if m.Replace != nil {
				m = m.Replace
			}
			return cmp.Or(m.Version, "(devel)")
		}
	}
	return "(devel)"
}

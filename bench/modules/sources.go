//go:build tools

// Sources of modules that we build are in go.mod as well, and not in our programs.

package modules

import _ "github.com/evanw/esbuild/pkg/api"

package wasmtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// Core features that the oldest supported wazero has no names for. It ignores them.
const (
	Threads                 = api.CoreFeatureSIMD << 1
	TailCall                = api.CoreFeatureSIMD << 2
	ExtendedConst           = api.CoreFeatureSIMD << 3
	ExceptionHandling       = api.CoreFeatureSIMD << 4
	TypedFunctionReferences = api.CoreFeatureSIMD << 5

	AllFeatures = api.CoreFeaturesV2 | Threads | TailCall | ExtendedConst | ExceptionHandling | TypedFunctionReferences
)

// WazeroDir is where the wazero in this test binary was compiled from. Its tests
// come with thousands of modules. The go command isn't asked first, because it
// knows go.mod, and not the file that -modfile named.
var WazeroDir = sync.OnceValues(func() (string, error) {
	file, _ := runtime.FuncForPC(reflect.ValueOf(wazero.NewRuntimeConfig).Pointer()).FileLine(0)
	dir := filepath.Dir(file)
	if !filepath.IsAbs(file) { // -trimpath
		out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/tetratelabs/wazero").Output()
		if err != nil {
			return "", fmt.Errorf("the source of wazero is not at hand: %w", err)
		}
		dir = strings.TrimSpace(string(out))
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		return "", fmt.Errorf("the source of wazero is not at hand: %w", err)
	}
	return dir, nil
})

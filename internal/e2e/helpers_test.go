package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/cachetest"
)

var bg = context.Background()

// thorough proofs take minutes; without it they take a sample.
var thorough = os.Getenv("MODCACHE_THOROUGH") != ""

// moduleRoot returns the folder of this module's go.mod.
func moduleRoot(t testing.TB) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	return root
}

var errFault = errors.New("injected")

// Short names for what each test uses.
var (
	ways          = cachetest.Ways
	needsCompiler = cachetest.NeedsCompiler
	requireRuns   = cachetest.RequireRuns
	openCache     = cachetest.Open
	newCache      = cachetest.New
	newRuntime    = cachetest.NewRuntime
	compile       = cachetest.Compile
	call          = cachetest.Call
	entriesBelow  = cachetest.Entries
	wazeroDir     = cachetest.WazeroDir

	chainWasm, chainWant = cachetest.Chain, cachetest.ChainWant
	otherWasm, otherWant = cachetest.Other, cachetest.OtherWant
)

const (
	forget   = cachetest.Forget
	chainLen = cachetest.ChainLen
)

type witness = cachetest.Witness

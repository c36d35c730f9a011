package modcache_test

import (
	"context"

	"github.com/modcache/modcache/internal/cachetest"
)

// Short names for what many tests use.
type witness = cachetest.Witness

const (
	forget   = cachetest.Forget
	chainLen = cachetest.ChainLen
)

var (
	bg = context.Background()

	chainWasm, chainWant = cachetest.Chain, cachetest.ChainWant
	otherWasm, otherWant = cachetest.Other, cachetest.OtherWant

	needsCompiler = cachetest.NeedsCompiler
	newCache      = cachetest.New
	openCache     = cachetest.Open
	ways          = cachetest.Ways
	requireRuns   = cachetest.RequireRuns

	newRuntime = cachetest.NewRuntime
	warmCache  = cachetest.Warm
	compile    = cachetest.Compile
	anonymous  = cachetest.Anonymous
	call       = cachetest.Call
	callF      = cachetest.CallF
	describe   = cachetest.Describe
	errorText  = cachetest.ErrorText
)

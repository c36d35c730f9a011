package cachetest

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// GivesBack collects garbage until there is nothing left of what shouldn't be. One collection isn't enough: finalizers
// and cleanups let go of more, and may have had no processor for long.
func GivesBack(t testing.TB, nothingLeft func() bool, msgAndArgs ...any) {
	t.Helper()
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		runtime.GC()
		if nothingLeft() {
			return
		}
		if time.Since(start) > time.Minute {
			require.FailNow(t, "it is still there after a minute", msgAndArgs...)
		}
	}
}

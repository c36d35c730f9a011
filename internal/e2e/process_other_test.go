//go:build !unix

package modcache_test

import "testing"

func childLimited(t *testing.T, _ job) report {
	t.Fatal("only on Unix")
	return report{}
}

//go:build !unix

package e2e

import "testing"

func childLimited(t *testing.T, _ job) report {
	t.Fatal("only on Unix")
	return report{}
}

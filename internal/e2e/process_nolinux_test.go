//go:build unix && !linux

package e2e

import "errors"

func mountTmpfs(string, string) error { return errors.ErrUnsupported }

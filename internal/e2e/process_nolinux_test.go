//go:build unix && !linux

package modcache_test

import "errors"

func mountTmpfs(string, string) error { return errors.ErrUnsupported }

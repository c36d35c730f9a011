//go:build !linux

package dirfs

import (
	"errors"
	"os"
)

func allocate(*os.File, int64) error { return errors.ErrUnsupported }

func isOwner(*os.File) bool { return true } // a number is a user, where there are no user namespaces

func isIDMapped(string) bool { return false }

func isUnion(*os.File) bool { return false }

func openBeneath(*os.File, string, int) (*os.File, error) { return nil, errors.ErrUnsupported }

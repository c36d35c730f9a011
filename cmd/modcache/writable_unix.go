//go:build unix

package main

import "golang.org/x/sys/unix"

// writable asks whether this user could make files in dir, without trying.
func writable(dir string) error { return unix.Access(dir, unix.W_OK|unix.X_OK) }

//go:build !unix

package main

// writable can't be told from access control lists without trying.
func writable(string) error { return nil }

//go:build !unix && !windows

package main

import "os"

// signals are those that interrupt a command.
func signals() []os.Signal { return []os.Signal{os.Interrupt} }

func ignoreBrokenPipes() {}

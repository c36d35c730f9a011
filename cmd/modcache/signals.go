//go:build unix || windows

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// signals are those that interrupt a command. nohup has it ignore that its terminal is gone.
func signals() []os.Signal {
	all := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		all = append(all, syscall.SIGHUP)
	}
	return all
}

func ignoreBrokenPipes() { signal.Ignore(syscall.SIGPIPE) }

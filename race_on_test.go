//go:build race

package modcache_test

const raceEnabled = true

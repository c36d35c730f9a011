//go:build !race

package cachetest

// RaceEnabled says whether the race detector is on, which makes a test take long.
const RaceEnabled = false

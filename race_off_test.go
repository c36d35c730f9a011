//go:build !race

package modcache_test

// raceDetector says that everything takes ten times as long.
const raceDetector = false

// This module's path lies inside wazero's, so that it may import the internal
// package which writes wazero's directory cache.
module github.com/tetratelabs/wazero/modcachebench

go 1.25.0

replace github.com/modcache/modcache => ../../

require (
	github.com/modcache/modcache v0.0.0
	github.com/tetratelabs/wazero v1.12.0
)

require (
	github.com/klauspost/compress v1.18.4 // indirect
	github.com/klauspost/cpuid/v2 v2.2.10 // indirect
	github.com/zeebo/blake3 v0.2.4 // indirect
	github.com/zeebo/xxh3 v1.1.0 // indirect
	golang.org/x/sync v0.20.0 // indirect
	golang.org/x/sys v0.44.0 // indirect
)

module github.com/modcache/modcache

go 1.25.0

require (
	github.com/klauspost/compress v1.18.4
	github.com/stretchr/testify v1.11.1
	github.com/tetratelabs/wazero v1.10.1
	github.com/zeebo/blake3 v0.2.4
	github.com/zeebo/xxh3 v1.1.0
	golang.org/x/sync v0.20.0
	golang.org/x/sys v0.44.0
)

require (
	github.com/davecgh/go-spew v1.1.1 // indirect
	github.com/klauspost/cpuid/v2 v2.2.10 // indirect
	github.com/pmezard/go-difflib v1.0.0 // indirect
	gopkg.in/yaml.v3 v3.0.1 // indirect
)

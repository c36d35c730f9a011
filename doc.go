// Package modcache caches the machine code that [wazero] compiles WebAssembly modules
// to, so that the second start of a program costs next to nothing.
//
// [Open] returns a [Cache] that keeps machine code in a directory; [New] returns one over
// any [Store]. A program can use a Cache in two ways. [Cache.NewRuntime] returns a
// [Runtime]: a wazero.Runtime that compiles each module once, and loads it without
// decoding it again. [Cache.CompilationCache] and [Cache.Attach] are the drop-in: they
// give the cache to a runtime of wazero's own, so that one line of the program changes.
// In both, a compile succeeds whatever happens to the store.
//
// [Runtime.NewTemplate] makes instances in microseconds. [Options.RequireHit] and
// [Options.ReadOnly] are for images that the command modcache has warmed; [OpenBundle] and
// [OpenFS] are for machine code that comes inside the program.
//
// Stores: a [Disk] is a directory that many processes can use at once, a [Memory] or a
// [Local] is bounded in bytes, and a [Layered] asks several stores in turn. Package
// [github.com/modcache/modcache/remote] keeps entries on servers, and package
// [github.com/modcache/modcache/modcachetest] tests a store of your own.
//
// A [SlotTable] keeps host objects for guests. A guest holds a [Handle], an integer. Once
// the object was removed, or in another table, it finds nothing.
//
// Trust: what a store returns runs inside your process. Every byte is verified before
// that. [DiskOptions.Key] makes sure that your own programs wrote it, and
// [the trust model] says who can do what.
//
// [wazero]: https://wazero.io
// [the trust model]: https://github.com/modcache/modcache/blob/main/docs/trust.md
package modcache

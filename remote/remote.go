// Package remote shares machine code among the machines of a fleet, through
// storage that already exists: any HTTP server, a Bazel remote cache, or S3.
//
// What a store returns runs inside the process that asked. So every entry is
// signed with Ed25519, or authenticated with a shared secret, and nothing of an
// entry is used before it was verified. A store without a key to verify with can't
// be made.
//
// A [Store] is made for use under a [modcache.Layered], with a local disk
// above it, or directly under a [modcache.Cache].
package remote

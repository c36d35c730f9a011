// Package e2e is nothing but tests: of the whole of modcache, from outside, through what
// its users see. They start processes, damage directories, break stores, build programs and run
// the specification's own tests; and they check what the documents show and list.
package e2e

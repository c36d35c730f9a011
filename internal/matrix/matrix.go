// Package matrix tests modcache from outside: programs with modules of their own, built
// against every supported version of wazero, and against versions that don't
// exist. It has nothing but tests.
package matrix

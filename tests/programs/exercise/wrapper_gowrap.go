//go:build go1.22

package main

// wrapperName is how the compiler calls the wrapper of a function's only `go` statement.
const wrapperName = "gowrap1"

// newClosureTally is for `go func(x T) { ... }(x)`, a function's only closure.
func newClosureTally(name, function string) *tally {
	return newTally(name, function, function+".func1")
}

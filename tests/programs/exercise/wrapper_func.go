//go:build !go1.22

package main

// wrapperName is how the compiler calls the wrapper of a function's only `go` statement.
const wrapperName = "func1"

// newClosureTally is for `go func(x T) { ... }(x)`, a function's only closure: func1 is the closure, func2 the wrapper
// that is started and calls it through a pointer.
func newClosureTally(name, function string) *tally {
	return newHiddenTally(name, function, function+".func2")
}

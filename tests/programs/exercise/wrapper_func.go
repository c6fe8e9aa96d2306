//go:build !go1.22

package main

// wrapperName is how the compiler calls the wrapper of a function's only `go` statement.
const wrapperName = "func1"

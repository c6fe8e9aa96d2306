//go:build cgo

package main

// #include <stdlib.h>
import "C"

// C code is called once, so that a build with cgo is not one without.
func init() { C.free(C.malloc(1)) }

// Exercise is main for programs in other languages that load this one as a shared object.
//
//export Exercise
func Exercise() { main() }

//go:build go1.25

package main

import "sync"

// Inlined, so that the caller calls the standard library's helper itself.
func waitGroupGo(wait *sync.WaitGroup, f func()) { wait.Go(f) }

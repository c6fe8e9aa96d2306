//go:build !go1.25

package main

import "sync"

// As the standard library's that came later.
//
//go:noinline
func waitGroupGo(wait *sync.WaitGroup, f func()) {
	wait.Add(1)
	go func() {
		defer wait.Done()
		f()
	}()
}

//go:build go1.23

package main

import "iter"

// A coroutine is a goroutine whose site is in iter.Pull, which starts a function of the runtime, and which ends
// without passing through goexit.
var coroutine = newHiddenTally("coroutine", "iter.Pull[...]", "runtime.corostart")

func init() { spawners["coroutine"] = spawnCoroutine }

// spawnCoroutine ends coroutines in the three ways there are: at the end of the sequence, told to stop in its
// middle, and stopped before it began (when nothing of ours runs in it, so its exit is counted here).
//
//go:noinline
func spawnCoroutine(i int, p pending) {
	coroutine.born()
	next, stop := iter.Pull(threeNumbers)
	switch i % 3 {
	case 0:
		for _, more := next(); more; _, more = next() {
		}
	case 1:
		next()
		stop()
	case 2:
		stop()
		coroutine.exits.Add(1)
	}
	p.Done()
}

func threeNumbers(yield func(int) bool) {
	defer coroutine.ended()
	for i := 0; i < 3; i++ {
		if !yield(i) {
			return
		}
	}
}

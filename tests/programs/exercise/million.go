package main

import (
	"runtime"
	"sync"
)

var driver = newTally("driver", "main.million", "main.drive")

// million has two goroutines start 1,000,000 goroutines on two processors, over five spawners (six sites, for `depth`
// starts two), mixed in small runs so that different sites overlap.
//
//go:noinline
func million() answer {
	const drivers, each = 2, 500_000
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	var p sync.WaitGroup
	p.Add(drivers)
	for i := 0; i < drivers; i++ {
		driver.born()
		go drive(each, &p)
	}
	p.Wait()
	return answer{"births": drivers * each, "drivers": drivers}
}

// drive starts n goroutines.
//
//go:noinline
func drive(n int, p pending) {
	defer p.Done()
	defer driver.ended()
	for started := 0; started < n; started += 5_000 {
		inBatches(func(_ int, p pending) { spawnPlain(p) }, 0, 1_500)
		inBatches(spawnArguments, 0, 1_500)
		inBatches(spawnClosure, 0, 1_500)
		inBatches(spawnGrow, 0, 300)
		inBatches(spawnDescent, 0, 100) // two each
		sink(descend(0, 400))
	}
}

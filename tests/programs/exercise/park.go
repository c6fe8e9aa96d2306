package main

import (
	"sync"
	"time"
)

var (
	sleeper = newTally("park", "main.park", "main.sleepExactly")
	pinger  = newTally("ping", "main.ping", "main.echo")
)

// park makes goroutines that park an exactly known number of times: time.Sleep of a positive duration always parks,
// and always once, in every Go version.
//
//go:noinline
func park(goroutines, n int) answer {
	var p sync.WaitGroup
	p.Add(goroutines)
	for i := 0; i < goroutines; i++ {
		sleeper.born()
		go sleepExactly(n, &p)
	}
	p.Wait()
	return answer{
		"parks": goroutines * n, "wait_reason": "sleep", "function": sleeper.function, "start_function": sleeper.start,
	}
}

//go:noinline
func sleepExactly(n int, p pending) {
	defer p.Done()
	defer sleeper.ended()
	for i := 0; i < n; i++ {
		time.Sleep(time.Microsecond)
	}
}

// ping sends n numbers to another goroutine and takes them back.
//
//go:noinline
func ping(n int) answer {
	there, back := make(chan int), make(chan int)
	pinger.born()
	go echo(there, back)
	for i := 0; i < n; i++ {
		there <- i
		<-back
	}
	close(there)
	<-back
	return answer{"round_trips": n}
}

//go:noinline
func echo(in <-chan int, out chan<- int) {
	defer pinger.ended()
	defer close(out)
	for i := range in {
		out <- i
	}
}

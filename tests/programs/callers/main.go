// Callers has several functions start goroutines through the same helpers. It is told line by line on standard input what to
// do, and answers each line with one JSON object.
//
// Commands:
//
//	all A B C LEAK_A LEAK_B LEAK_C   each caller starts so many goroutines through every helper, all at the same time; so
//	                                 many of each wait for ever, the others end at once; answers when they have
//	quit                             exits with status 0, as end of input does
package main

import (
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"time"

	"talk"
)

func main() {
	talk.Obey(obey)
}

// helper is something that starts goroutines for others.
type helper func(f func())

var ended sync.WaitGroup

// gate is never opened.
var gate = make(chan struct{})

// group is as golang.org/x/sync/errgroup has it.
type group struct{ wait sync.WaitGroup }

//go:noinline
func (g *group) Go(f func()) {
	g.wait.Add(1)
	go func() {
		defer g.wait.Done()
		f()
	}()
}

//go:noinline
func each[T any](items []T, f func(T)) {
	for _, item := range items {
		go f(item)
	}
}

var (
	groups  group
	waiting sync.WaitGroup
)

// start has n goroutines started through every helper, the calls in the caller's own body.
func work(i, leak int) func() {
	if i < leak {
		return func() { <-gate }
	}
	ended.Add(1)
	return ended.Done
}

//go:noinline
func callerA(n, leak int) {
	for i := 0; i < n; i++ {
		groups.Go(work(i, leak))
		each([]func(){work(i, leak)}, func(f func()) { f() })
		waitGroupGo(&waiting, work(i, leak))
	}
}

//go:noinline
func callerB(n, leak int) {
	for i := 0; i < n; i++ {
		groups.Go(work(i, leak))
		each([]func(){work(i, leak)}, func(f func()) { f() })
		waitGroupGo(&waiting, work(i, leak))
	}
}

//go:noinline
func callerC(n, leak int) {
	for i := 0; i < n; i++ {
		groups.Go(work(i, leak))
		each([]func(){work(i, leak)}, func(f func()) { f() })
		waitGroupGo(&waiting, work(i, leak))
	}
}

func obey(command string, args []string) (talk.Answer, error) {
	if command != "all" || len(args) != 6 {
		return nil, fmt.Errorf("usage: all A B C LEAK_A LEAK_B LEAK_C")
	}
	numbers := make([]int, 6)
	leaks := 0
	for i, arg := range args {
		n, err := strconv.Atoi(arg)
		if err != nil {
			return nil, err
		}
		numbers[i] = n
		if i >= 3 {
			leaks += 3 * n
		}
	}
	before := runtime.NumGoroutine()
	var callers sync.WaitGroup
	for i, caller := range []func(n, leak int){callerA, callerB, callerC} {
		callers.Add(1)
		go func(i int, caller func(n, leak int)) {
			defer callers.Done()
			caller(numbers[i], numbers[3+i])
		}(i, caller)
	}
	callers.Wait()
	ended.Wait()
	for runtime.NumGoroutine() != before+leaks {
		time.Sleep(time.Millisecond)
	}
	return talk.Answer{"live": runtime.NumGoroutine()}, nil
}

// Served has net/http/pprof of its own, so that what is said of it from outside can be held to what it says itself. It
// is told line by line on standard input what to do, and answers each line with one JSON object on standard output.
//
// Commands:
//
//	listen   starts goroutines that rest in different states, and a server with /debug/pprof/ on loopback: its address
//	leak N   N goroutines that stay
//	gc N     N garbage collections
//	stats    what runtime.ReadMemStats, runtime.NumGoroutine and runtime.GOMAXPROCS say
//	quit     exits with status 0, as end of input does
package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	_ "net/http/pprof"
	"runtime"
	"runtime/pprof"
	"strconv"
	"sync"
	"time"

	"talk"
)

type answer = talk.Answer

func main() { talk.Obey(obey) }

func obey(command string, args []string) (answer, error) {
	switch {
	case command == "listen" && len(args) == 0:
		return listen()
	case command == "leak" && len(args) == 1:
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return nil, err
		}
		leak(n)
		time.Sleep(100 * time.Millisecond)
		return stats(), nil
	case command == "gc" && len(args) == 1:
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return nil, err
		}
		for i := 0; i < n; i++ {
			runtime.GC()
		}
		return stats(), nil
	case command == "stats" && len(args) == 0:
		return stats(), nil
	}
	return nil, fmt.Errorf("unknown command %q with %d arguments", command, len(args))
}

// What goroutines wait on for ever; global so that nothing is collected.
var (
	never = make(chan int)
	other = make(chan string)
	lock  sync.Mutex
	group sync.WaitGroup
)

func listen() (answer, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	lock.Lock()
	group.Add(1)
	for i := 0; i < 3; i++ {
		go receive()
	}
	go send()
	go choose()
	go waitLock()
	go waitGroup()
	go sleep()
	go recurse(12)
	pprof.Do(context.Background(), pprof.Labels("tenant", "a b", "endpoint", "/api"), func(context.Context) {
		go receive()
		go receive()
	})
	go http.Serve(listener, nil)
	time.Sleep(200 * time.Millisecond)
	return answer{"address": listener.Addr().String()}, nil
}

func leak(n int) {
	for i := 0; i < n; i++ {
		go stay()
	}
}

func stay() { <-never }

func receive() { <-never }

func send() { other <- "x" }

func choose() {
	select {
	case <-never:
	case <-make(chan bool):
	}
}

func waitLock() { lock.Lock() }

func waitGroup() { group.Wait() }

func sleep() { time.Sleep(time.Hour) }

//go:noinline
func recurse(depth int) int {
	if depth == 0 {
		return <-never
	}
	return recurse(depth-1) + 1
}

func stats() answer {
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	return answer{
		"goroutines": runtime.NumGoroutine(),
		"gc_cycles":  memory.NumGC,
		"pause_ns":   memory.PauseTotalNs,
		"next_gc":    memory.NextGC,
		"heap":       memory.HeapAlloc,
		"processors": runtime.GOMAXPROCS(0),
	}
}

// Bench runs fixed numbers of scheduler events for benchmarks, told line by line on standard input, and answers each
// line with one JSON object: what it did, and what that took in its own CPU time and in wall time.
//
//	spawn N   N goroutines that end at once: N births and N exits
//	park N    N/2 round trips over unbuffered channels: N parks (see park)
//	quit
//
// It runs on one processor (GOMAXPROCS=1): a second one would add wake-ups of idle threads, whose number varies.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type answer struct {
	Events int    `json:"events"`
	CPU    int64  `json:"cpu_ns"`
	Wall   int64  `json:"wall_ns"`
	Error  string `json:"error,omitempty"`
}

func main() {
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(-1) // nothing here makes garbage worth a collection in the middle of a measurement
	out := json.NewEncoder(os.Stdout)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) == 1 && words[0] == "quit" {
			return
		}
		if err := out.Encode(obey(words)); err != nil {
			os.Exit(1)
		}
	}
}

func obey(words []string) answer {
	if len(words) != 2 {
		return answer{Error: fmt.Sprintf("usage: spawn|park N, not %q", words)}
	}
	n, err := strconv.Atoi(words[1])
	if err != nil {
		return answer{Error: err.Error()}
	}
	switch words[0] {
	case "spawn":
		return measure(n, spawn)
	case "park":
		return measure(n, park)
	}
	return answer{Error: "unknown command " + words[0]}
}

func measure(n int, do func(int)) answer {
	cpu, wall := cpuTime(), time.Now()
	do(n)
	return answer{Events: n, Wall: time.Since(wall).Nanoseconds(), CPU: cpuTime() - cpu}
}

func cpuTime() int64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return usage.Utime.Nano() + usage.Stime.Nano()
}

// spawn lets its goroutines run every few births, so that they are reused and memory stays small.
//
//go:noinline
func spawn(n int) {
	for i := 0; i < n; i++ {
		go nothing()
		if i%64 == 63 {
			runtime.Gosched()
		}
	}
	for runtime.NumGoroutine() > 1 {
		runtime.Gosched()
	}
}

//go:noinline
func nothing() {}

// park plays ping-pong. On one processor, each side finds the other already waiting, hands over its value, and parks
// for the answer: two parks per round trip.
//
//go:noinline
func park(n int) {
	there, back := make(chan int), make(chan int)
	go echo(there, back)
	runtime.Gosched() // echo waits
	for i := 0; i < n/2; i++ {
		there <- i
		<-back
	}
	close(there)
	<-back
}

//go:noinline
func echo(in <-chan int, out chan<- int) {
	for i := range in {
		out <- i
	}
	close(out)
}

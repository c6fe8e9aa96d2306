// Waits has goroutines wait in known ways for known times, and says between which bounds their waits and lives were. It is
// told line by line on standard input what to do, and answers each line with one JSON object.
//
// Commands:
//
//	older N          N goroutines that wait until release
//	release          lets them end, and returns when they have
//	wait KIND N MS   N goroutines that wait for MS milliseconds, once each, and end: see kinds
//	busy N           N goroutines that want to run, and never wait: how many processors there are
//	quit             exits with status 0, as end of input does
package main

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"talk"
)

type answer = talk.Answer

func main() {
	talk.Obey(obey)
}

func obey(command string, args []string) (answer, error) {
	switch {
	case command == "older" && len(args) == 1:
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return nil, err
		}
		return older(n)
	case command == "release" && len(args) == 0:
		close(gate)
		back(alone)
		return answer{}, nil
	case command == "busy" && len(args) == 1:
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return nil, err
		}
		for i := 0; i < n; i++ {
			go spin()
		}
		return answer{"processors": runtime.GOMAXPROCS(0)}, nil
	case command == "wait" && len(args) == 3:
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return nil, err
		}
		ms, err := strconv.Atoi(args[2])
		if err != nil {
			return nil, err
		}
		return wait(args[0], n, time.Duration(ms)*time.Millisecond)
	}
	return nil, fmt.Errorf("unknown command %q with %d arguments", command, len(args))
}

var gate = make(chan struct{})
var alone = runtime.NumGoroutine()

func older(n int) (answer, error) {
	for i := 0; i < n; i++ {
		go behind(gate)
	}
	_, _, err := all(n, "main.behind(")
	return answer{}, err
}

//go:noinline
func behind(gate chan struct{}) {
	<-gate
}

// A way to wait: what each goroutine does, and what ends that for all of them. Sleeping ends by itself.
type way struct {
	wait    func()
	release func()
}

func kinds(kind string, n int, time_ time.Duration) (way, error) {
	channel := make(chan int)
	var group sync.WaitGroup
	switch kind {
	case "sleep":
		return way{func() { time.Sleep(time_) }, nil}, nil
	case "receive":
		return way{func() { <-channel }, func() { close(channel) }}, nil
	case "send":
		return way{func() { channel <- 1 }, func() {
			for i := 0; i < n; i++ {
				<-channel
			}
		}}, nil
	case "select":
		never := make(chan int)
		return way{func() {
			select {
			case <-channel:
			case <-never:
			}
		}, func() { close(channel) }}, nil
	case "group":
		group.Add(1)
		return way{group.Wait, group.Done}, nil
	}
	return way{}, fmt.Errorf("unknown kind %q", kind)
}

func wait(kind string, n int, length time.Duration) (answer, error) {
	way, err := kinds(kind, n, length)
	if err != nil {
		return nil, err
	}
	before := runtime.NumGoroutine()
	created, began, ended := make([]time.Time, n), make([]time.Time, n), make([]time.Time, n)
	for i := 0; i < n; i++ {
		created[i] = time.Now()
		go waiter(way.wait, &began[i], &ended[i])
	}
	reason, seen, err := all(n, "main.waiter(")
	if err != nil {
		return nil, err
	}
	released := time.Now()
	if way.release != nil {
		time.Sleep(length)
		released = time.Now()
		way.release()
	}
	back(before)
	gone := time.Now()
	var leastWait, mostWait, leastLife, mostLife time.Duration
	for i := 0; i < n; i++ {
		if way.release == nil {
			released = began[i].Add(length)
		}
		leastWait += released.Sub(seen)
		mostWait += ended[i].Sub(began[i])
		leastLife += ended[i].Sub(began[i])
		mostLife += gone.Sub(created[i])
	}
	return answer{
		"reason":       reason,
		"least_wait_s": leastWait.Seconds(), "most_wait_s": mostWait.Seconds(),
		"least_life_s": leastLife.Seconds(), "most_life_s": mostLife.Seconds(),
	}, nil
}

//go:noinline
func waiter(wait func(), began, ended *time.Time) {
	*began = time.Now()
	wait()
	*ended = time.Now()
}

//go:noinline
func spin() {
	for {
	}
}

// Waits until n goroutines with this function on their stacks wait, all for one reason, which the runtime names. When that
// was so at the latest.
func all(n int, function string) (string, time.Time, error) {
	buffer := make([]byte, 1<<20)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); runtime.Gosched() {
		text := string(buffer[:runtime.Stack(buffer, true)])
		seen := time.Now()
		states := map[string]int{}
		for _, one := range strings.Split(text, "\n\n") {
			if strings.Contains(one, function) {
				state := one[strings.Index(one, "[")+1:]
				states[state[:strings.IndexAny(state, ",]")]]++
			}
		}
		for state, count := range states {
			if count == n && state != "runnable" && state != "running" {
				return state, seen, nil
			}
		}
	}
	return "", time.Time{}, errors.New("they do not wait at once")
}

// Waits until no more than n goroutines are left.
func back(n int) {
	for runtime.NumGoroutine() > n {
		runtime.Gosched()
	}
}

// Exercise does exact, known numbers of things to the Go scheduler, told line by line on standard input, and
// answers each line with one JSON object on standard output. It counts for itself what it did, so that an observer
// from outside can be held to its numbers.
//
// What is counted: every goroutine this program starts, at the `go` statement (or timer, or coroutine) that starts
// it; see tally. Not counted: the main goroutine, and those the runtime starts for itself (GC workers, finalizers,
// sweeper, scavenger), which no program can avoid; and during `profile` the one goroutine of runtime/pprof.
//
// Commands:
//
//	sites                 the names `spawn` and `block` know
//	spawn SITE N          N goroutines at SITE that end by themselves, at full speed, few alive at a time
//	block KIND N          N goroutines blocked on KIND; answers once the runtime says they all are
//	release               ends every blocked goroutine that can be ended
//	park GOROUTINES N     each goroutine parks exactly N times (time.Sleep parks exactly once per call)
//	ping N                N round trips over unbuffered channels: many parks, their number up to the scheduler
//	million               1,000,000 births and exits over five sites, with deep stack growth in between
//	load on|off           mixed work at full speed until told off
//	check                 the load's own consistency checks
//	profile FILE SECONDS  CPU profile of a channel-heavy program, made for a PGO build that inlines gopark
//	settle                waits until every goroutine that has done its last act has truly gone
//	stats                 the tallies
//	quit                  exits with status 0, as end of input does
package main

import (
	"fmt"
	"runtime"
	"strconv"

	"talk"
)

type answer = talk.Answer

func main() { talk.Obey(obey) }

func obey(command string, args []string) (answer, error) {
	switch command {
	case "sites":
		return answer{"spawn": spawnNames(), "block": blockNames()}, nil
	case "spawn":
		return withName(args, spawn)
	case "block":
		return withName(args, block)
	case "release":
		return release()
	case "park":
		n, err := numbers(args, 2)
		if err != nil {
			return nil, err
		}
		return park(n[0], n[1]), nil
	case "ping":
		n, err := numbers(args, 1)
		if err != nil {
			return nil, err
		}
		return ping(n[0]), nil
	case "million":
		return million(), nil
	case "load":
		if len(args) != 1 || args[0] != "on" && args[0] != "off" {
			return nil, fmt.Errorf("usage: load on|off")
		}
		return load(args[0] == "on")
	case "check":
		return check(), nil
	case "profile":
		if len(args) != 2 {
			return nil, fmt.Errorf("usage: profile FILE SECONDS")
		}
		n, err := numbers(args[1:], 1)
		if err != nil {
			return nil, err
		}
		return profile(args[0], n[0])
	case "settle":
		return settle()
	case "stats":
		return stats()
	}
	return nil, fmt.Errorf("unknown command %q", command)
}

func withName(args []string, do func(name string, n int) (answer, error)) (answer, error) {
	if len(args) != 2 {
		return nil, fmt.Errorf("usage: NAME N")
	}
	n, err := numbers(args[1:], 1)
	if err != nil {
		return nil, err
	}
	return do(args[0], n[0])
}

func numbers(args []string, count int) ([]int, error) {
	if len(args) != count {
		return nil, fmt.Errorf("%d numbers expected, got %q", count, args)
	}
	var result []int
	for _, arg := range args {
		n, err := strconv.Atoi(arg)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("not a count: %q", arg)
		}
		result = append(result, n)
	}
	return result, nil
}

func stats() (answer, error) {
	sites, err := report()
	if err != nil {
		return nil, err
	}
	return answer{
		"go_version": runtime.Version(),
		"gomaxprocs": runtime.GOMAXPROCS(0),
		"goroutines": runtime.NumGoroutine(),
		"sites":      sites,
	}, nil
}

package main

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A tally counts the goroutines of one creation site that start one function.
//
// A birth is counted by the spawner just before its `go` statement (by the goroutine itself where a timer is the
// spawner), an exit by the goroutine as its last act. A goroutine lives a moment longer than its last act: `settle`
// waits that moment out.
type tally struct {
	name     string // what commands call it
	function string // holds the `go` statement, as the runtime names it
	start    string // what an observer from outside should see it start
	hidden   bool   // the goroutine's own traceback does not show start, but what start calls

	births atomic.Int64
	exits  atomic.Int64

	located  atomic.Bool
	locating sync.Mutex
	place    place
}

// place is what the runtime itself says about a goroutine's beginning.
type place struct {
	function, file, start string
	line                  int
}

var tallies []*tally

func newTally(name, function, start string) *tally {
	t := &tally{name: name, function: function, start: start}
	tallies = append(tallies, t)
	return t
}

// newHiddenTally is for goroutines started through a function that tracebacks leave out.
func newHiddenTally(name, function, start string) *tally {
	t := newTally(name, function, start)
	t.hidden = true
	return t
}

func (t *tally) born() { t.births.Add(1) }

// ended is every goroutine's last act. The first one of a tally also asks the runtime where it came from.
//
//go:noinline
func (t *tally) ended() {
	if !t.located.Load() {
		t.locate()
	}
	t.exits.Add(1)
}

//go:noinline
func (t *tally) locate() {
	buffer := make([]byte, 64<<10)
	t.found(parsePlace(string(buffer[:runtime.Stack(buffer, false)])))
}

func (t *tally) found(p place) {
	t.locating.Lock()
	defer t.locating.Unlock()
	if !t.located.Load() {
		t.place = p
		t.located.Store(true)
	}
}

// parsePlace reads the end of a traceback:
//
//	main.work(0x1, 0x2)
//		/dir/spawn.go:12 +0x1d
//	created by main.spawn in goroutine 1     (" in goroutine 1" since Go 1.21)
//		/dir/spawn.go:30 +0x5a
func parsePlace(traceback string) place {
	lines := strings.Split(strings.TrimRight(traceback, "\n"), "\n")
	if len(lines) < 4 {
		return place{}
	}
	tail := lines[len(lines)-4:]
	var p place
	p.start = tail[0]
	if end := strings.LastIndexByte(p.start, '('); end > 0 {
		p.start = p.start[:end]
	}
	p.function = strings.TrimPrefix(tail[2], "created by ")
	if end := strings.Index(p.function, " in goroutine "); end > 0 {
		p.function = p.function[:end]
	}
	where := strings.TrimSpace(tail[3])
	if end := strings.LastIndex(where, " +0x"); end > 0 {
		where = where[:end]
	}
	if colon := strings.LastIndexByte(where, ':'); colon > 0 {
		p.file = where[:colon]
		fmt.Sscanf(where[colon+1:], "%d", &p.line)
	}
	return p
}

// report lists the tallies that have counted anything. It is an error if what is declared here about a site is not
// what the runtime says about it.
func report() ([]answer, error) {
	sites := []answer{}
	for _, t := range tallies {
		births, exits := t.births.Load(), t.exits.Load()
		if births == 0 {
			continue
		}
		site := answer{
			"site": t.name, "function": t.function, "start_function": t.start, "births": births, "exits": exits,
			"file": nil, "line": nil,
		}
		if t.located.Load() {
			p := t.place
			if p.function != t.function || !t.hidden && p.start != t.start {
				return nil, fmt.Errorf("site %s is %s starting %s, but the runtime says %s starting %s",
					t.name, t.function, t.start, p.function, p.start)
			}
			site["file"], site["line"] = p.file, p.line
		}
		sites = append(sites, site)
	}
	return sites, nil
}

// settle waits until nothing of ours is alive but main and what `block` holds: every other birth has its exit, and the
// runtime has as many goroutines as that makes.
//
// NumGoroutine reads too high while a goroutine is ending, and may read wrong either way while goroutines are being
// started elsewhere; a few equal readings in a row, when everything has done its last act, mean it is over.
func settle() (answer, error) {
	const needed = 5
	equal := 0
	deadline := time.Now().Add(60 * time.Second)
	for time.Now().Before(deadline) {
		if ending, blocked := unfinished(); ending == 0 && int64(runtime.NumGoroutine()) == 1+blocked {
			equal++
		} else {
			equal = 0
		}
		if equal == needed {
			return answer{"goroutines": runtime.NumGoroutine()}, nil
		}
		time.Sleep(2 * time.Millisecond)
	}
	ending, blocked := unfinished()
	return nil, fmt.Errorf("not settled: the runtime has %d goroutines; by the tallies %d are blocked and %d others alive",
		runtime.NumGoroutine(), blocked, ending)
}

// unfinished counts births without an exit: those of goroutines that end by themselves, and those held by `block`.
func unfinished() (ending, blocked int64) {
	for _, t := range tallies {
		alive := t.births.Load() - t.exits.Load()
		if blockings[t.name] != nil {
			blocked += alive
		} else {
			ending += alive
		}
	}
	return ending, blocked
}

package main

import (
	"fmt"
	"runtime"
	"sort"
	"sync"
	"time"
)

// A batch is how many goroutines are alive at a time: enough for full speed, few enough for little memory.
const batch = 500

// pending is the batch under way of each spawner; workers count themselves down in it.
type pending = *sync.WaitGroup

// A spawner starts one goroutine per call; all its goroutines together are its tallies.
type spawner func(i int, p pending)

var spawners = map[string]spawner{
	"plain":             func(_ int, p pending) { spawnPlain(p) },
	"arguments":         spawnArguments,
	"closure":           spawnClosure,
	"closure-arguments": spawnClosureArguments,
	"method":            spawnMethod,
	"method-value":      spawnMethodValue,
	"interface":         func(_ int, p pending) { spawnInterface(anyRunner(p)) },
	"generic":           spawnEitherGeneric,
	"two-starts":        spawnEitherStart,
	"inlined-caller":    inlinedCaller,
	"inlined-start":     spawnInlinedStart,
	"grow":              spawnGrow,
	"depth":             spawnDescent,
	"goexit":            spawnGoexit,
	"panic":             spawnPanic,
	"after-func":        spawnAfterFunc,
}

func spawnNames() []string {
	var names []string
	for name := range spawners {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

func spawn(name string, n int) (answer, error) {
	s, known := spawners[name]
	if !known {
		return nil, fmt.Errorf("no site %q in %s", name, runtime.Version())
	}
	inBatches(s, 0, n)
	return answer{"spawned": n}, nil
}

func inBatches(s spawner, from, to int) {
	var p sync.WaitGroup
	for i := from; i < to; {
		for end := min(to, i+batch); i < end; i++ {
			p.Add(1)
			s(i, &p)
		}
		p.Wait()
	}
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}

// ---- the plain ways ----

var plain = newTally("plain", "main.spawnPlain", "main.workPlain")

// plainPending is where workPlain finds its batch: it takes no arguments, so that no wrapper is started in its place.
var plainPending = make(chan pending, 1<<16)

//go:noinline
func spawnPlain(p pending) {
	plainPending <- p
	plain.born()
	go workPlain()
}

//go:noinline
func workPlain() {
	p := <-plainPending
	plain.ended()
	p.Done()
}

var arguments = newTally("arguments", "main.spawnArguments", "main.workArguments")

//go:noinline
func spawnArguments(i int, p pending) {
	arguments.born()
	go workArguments(p, i, "text")
}

//go:noinline
func workArguments(p pending, i int, text string) {
	defer p.Done()
	defer arguments.ended()
	sink(i + len(text))
}

var closure = newTally("closure", "main.spawnClosure", "main.spawnClosure.func1")

//go:noinline
func spawnClosure(i int, p pending) {
	closure.born()
	go func() {
		defer p.Done()
		defer closure.ended()
		sink(i)
	}()
}

// Before Go 1.22, nothing in the binary links the compiler's wrapper to the closure that it calls.
var closureArguments = newClosureTally("closure-arguments", "main.spawnClosureArguments")

//go:noinline
func spawnClosureArguments(i int, p pending) {
	closureArguments.born()
	go func(n int, p pending) {
		defer p.Done()
		defer closureArguments.ended()
		sink(n)
	}(i, p)
}

type worker struct {
	tally *tally
	p     pending
}

type runner interface{ run() }

//go:noinline
func (w *worker) run() {
	defer w.p.Done()
	defer w.tally.ended()
}

var method = newTally("method", "main.spawnMethod", "main.(*worker).run")

//go:noinline
func spawnMethod(_ int, p pending) {
	w := &worker{method, p}
	method.born()
	go w.run()
}

// What is started is the compiler's "-fm", which calls the method.
var methodValue = newHiddenTally("method-value", "main.spawnMethodValue", "main.(*worker).run")

//go:noinline
func spawnMethodValue(_ int, p pending) {
	run := methodValueOf(&worker{methodValue, p})
	methodValue.born()
	go run()
}

//go:noinline
func methodValueOf(w *worker) func() { return w.run }

// Which method is meant is not known before it runs: what is started is the wrapper around the dynamic call.
var viaInterface = newHiddenTally("interface", "main.spawnInterface", "main.spawnInterface."+wrapperName)

//go:noinline
func spawnInterface(r runner) {
	viaInterface.born()
	go r.run()
}

//go:noinline
func anyRunner(p pending) runner { return &worker{viaInterface, p} }

// One `go` statement, two machine codes (one per shape of T): two sites with one function name and line.
var generic = newTally("generic", "main.spawnGeneric[...]", "main.workGeneric[...]")

func spawnEitherGeneric(i int, p pending) {
	if i%2 == 0 {
		spawnGeneric(i, p)
	} else {
		spawnGeneric("text", p)
	}
}

//go:noinline
func spawnGeneric[T any](value T, p pending) {
	generic.born()
	go workGeneric(value, p)
}

//go:noinline
func workGeneric[T any](value T, p pending) {
	defer p.Done()
	defer generic.ended()
	sink(len(fmt.Sprint(value)))
}

// One `go` statement, two functions started.
var (
	firstStart    = newTally("two-starts", "main.spawnStart", "main.workFirst")
	secondStart   = newTally("two-starts", "main.spawnStart", "main.workSecond")
	startsPending = make(chan pending, 1<<16)
)

func spawnEitherStart(i int, p pending) {
	startsPending <- p
	if i%3 == 0 {
		firstStart.born()
		spawnStart(workFirst)
	} else {
		secondStart.born()
		spawnStart(workSecond)
	}
}

//go:noinline
func spawnStart(work func()) {
	go work()
}

//go:noinline
func workFirst() {
	p := <-startsPending
	firstStart.ended()
	p.Done()
}

//go:noinline
func workSecond() {
	p := <-startsPending
	secondStart.ended()
	p.Done()
}

// ---- where inlining plays ----

var fromInlined = newTally("inlined-caller", "main.spawnFromInlined", "main.workFromInlined")

// inlinedCaller is small, so the creation stack has an inlined frame above spawnFromInlined where it is called
// directly.
func inlinedCaller(i int, p pending) { callInlined(i, p) }

func callInlined(i int, p pending) { spawnFromInlined(i+1, p) }

//go:noinline
func spawnFromInlined(i int, p pending) {
	fromInlined.born()
	go workFromInlined(i, p)
}

//go:noinline
func workFromInlined(i int, p pending) {
	defer p.Done()
	defer fromInlined.ended()
	sink(i)
}

var inlinedStart = newTally("inlined-start", "main.spawnInlinedStart", "main.workInlined")

//go:noinline
func spawnInlinedStart(_ int, p pending) {
	inlinedStart.born()
	go workInlined(p)
}

// workInlined is small enough to vanish into the compiler's wrapper that is started in its place.
func workInlined(p pending) { finish(inlinedStart, p) }

//go:noinline
func finish(t *tally, p pending) {
	t.ended()
	p.Done()
}

// ---- where stacks grow ----

var grow = newTally("grow", "main.spawnGrow", "main.workGrow")

//go:noinline
func spawnGrow(i int, p pending) {
	grow.born()
	go workGrow(i, p)
}

// workGrow needs some 64 KiB of stack: it is copied five times or so on the way down.
//
//go:noinline
func workGrow(i int, p pending) {
	defer p.Done()
	defer grow.ended()
	sink(descend(i, 200))
}

//go:noinline
func descend(i, depth int) int {
	var frame [32]int
	frame[depth%len(frame)] = i
	if depth > 0 {
		i = descend(i, depth-1)
	}
	return i + frame[(depth+1)%len(frame)]
}

var (
	descent = newTally("depth", "main.spawnDescent", "main.workDescent")
	atDepth = newTally("depth", "main.spawnAtDepth", "main.workAtDepth")
)

// spawnDescent starts a goroutine that goes deep and starts another from down there.
//
//go:noinline
func spawnDescent(i int, p pending) {
	descent.born()
	go workDescent(i, p)
}

//go:noinline
func workDescent(i int, p pending) {
	defer descent.ended()
	sink(spawnAtDepth(i, 100, p))
}

//go:noinline
func spawnAtDepth(i, depth int, p pending) int {
	var frame [32]int
	frame[depth%len(frame)] = i
	if depth > 0 {
		return spawnAtDepth(i, depth-1, p) + frame[(depth+1)%len(frame)]
	}
	atDepth.born()
	go workAtDepth(i, p)
	return i
}

//go:noinline
func workAtDepth(i int, p pending) {
	defer p.Done()
	defer atDepth.ended()
	sink(i)
}

// ---- the other ways to end, and to begin ----

var byGoexit = newTally("goexit", "main.spawnGoexit", "main.workGoexit")

//go:noinline
func spawnGoexit(i int, p pending) {
	byGoexit.born()
	go workGoexit(i, p)
}

//go:noinline
func workGoexit(i int, p pending) {
	defer p.Done()
	defer byGoexit.ended()
	leave(i)
}

//go:noinline
func leave(i int) {
	if i >= 0 {
		runtime.Goexit()
	}
}

var byPanic = newTally("panic", "main.spawnPanic", "main.workPanic")

//go:noinline
func spawnPanic(i int, p pending) {
	byPanic.born()
	go workPanic(i, p)
}

//go:noinline
func workPanic(i int, p pending) {
	defer p.Done()
	defer byPanic.ended()
	defer func() { sink(recover().(int)) }()
	panic(i)
}

// The runtime starts it when the timer is due: the site is time.goFunc whoever asked for it.
var afterFunc = newTally("after-func", "time.goFunc", "main.workAfterFunc")

var afterFuncPending = make(chan pending, 1<<16)

//go:noinline
func spawnAfterFunc(i int, p pending) {
	afterFuncPending <- p
	time.AfterFunc(time.Duration(i%10)*100*time.Microsecond, workAfterFunc)
}

//go:noinline
func workAfterFunc() {
	p := <-afterFuncPending
	afterFunc.born()
	afterFunc.ended()
	p.Done()
}

var sunk int

// sink uses a value as far as the compiler knows.
//
//go:noinline
func sink(value int) {
	if value < 0 {
		sunk = value
	}
}

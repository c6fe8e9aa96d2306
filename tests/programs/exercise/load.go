package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"time"
)

var (
	loader     = newTally("load", "main.load", "main.(*mix).run")
	summer     = newTally("load-sum", "main.(*mix).sums", "main.(*mix).sum")
	contender  = newTally("load-mutex", "main.(*mix).contend", "main.(*mix).contend.func1")
	ponger     = newTally("load-ping", "main.(*mix).pings", "main.(*mix).pong")
	allocating = newTally("load-garbage", "main.(*mix).garbage", "main.(*mix).litter")
)

// mix is work whose results are known beforehand: every wrong one is a failure.
type mix struct {
	stop       atomic.Bool
	running    sync.WaitGroup
	operations atomic.Int64
	failures   atomic.Int64
	first      atomic.Value // the first failure, a string
}

var mixed = &mix{}

// load starts the mix, or stops it and waits for its end.
//
//go:noinline
func load(on bool) (answer, error) {
	if !on {
		mixed.stop.Store(true)
		mixed.running.Wait()
		return check(), nil
	}
	if loader.births.Load() != loader.exits.Load() {
		return nil, fmt.Errorf("the load is on already")
	}
	mixed.stop.Store(false)
	for _, work := range []func(int){mixed.sums, mixed.contend, mixed.pings, mixed.garbage} {
		mixed.running.Add(1)
		loader.born()
		go mixed.run(work)
	}
	return answer{"load": "on"}, nil
}

func check() answer {
	first, _ := mixed.first.Load().(string)
	failures := mixed.failures.Load()
	return answer{
		"ok": failures == 0, "operations": mixed.operations.Load(), "failures": failures, "first_failure": first,
	}
}

//go:noinline
func (m *mix) run(work func(round int)) {
	defer m.running.Done()
	defer loader.ended()
	for round := 0; !m.stop.Load(); round++ {
		work(round)
	}
}

func (m *mix) expect(what string, got, want int) {
	m.operations.Add(1)
	if got != want {
		m.first.CompareAndSwap(nil, fmt.Sprintf("%s: %d, not %d", what, got, want))
		m.failures.Add(1)
	}
}

// sums has 100 goroutines add up numbers, deep in their stacks.
//
//go:noinline
func (m *mix) sums(round int) {
	results := make(chan int, 10)
	for i := 0; i < 100; i++ {
		summer.born()
		go m.sum(round+i, results)
	}
	total := 0
	for i := 0; i < 100; i++ {
		total += <-results
	}
	m.expect("sums", total, 100*round+99*100/2)
}

//go:noinline
func (m *mix) sum(i int, results chan<- int) {
	defer summer.ended()
	results <- descend(i, i%64)
}

// contend has eight goroutines count under one lock.
//
//go:noinline
func (m *mix) contend(int) {
	var lock sync.Mutex
	var p sync.WaitGroup
	count := 0
	p.Add(8)
	for i := 0; i < 8; i++ {
		contender.born()
		go func() {
			defer p.Done()
			defer contender.ended()
			for j := 0; j < 100; j++ {
				lock.Lock()
				count++
				lock.Unlock()
			}
		}()
	}
	p.Wait()
	m.expect("contend", count, 800)
}

//go:noinline
func (m *mix) pings(round int) {
	there, back := make(chan int), make(chan int)
	ponger.born()
	go m.pong(there, back)
	total := 0
	for i := 0; i < 200; i++ {
		there <- round
		total += <-back
	}
	close(there)
	m.expect("pings", total, 200*(round+1))
}

//go:noinline
func (m *mix) pong(in <-chan int, out chan<- int) {
	defer ponger.ended()
	for i := range in {
		out <- i + 1
	}
}

// garbage keeps the collector busy and checks that what is alive stays what it was.
//
//go:noinline
func (m *mix) garbage(round int) {
	results := make(chan int)
	allocating.born()
	go m.litter(round, results)
	m.expect("garbage", <-results, 1000*round)
	if round%50 == 0 {
		runtime.GC()
	}
}

//go:noinline
func (m *mix) litter(round int, results chan<- int) {
	defer allocating.ended()
	var kept []*int
	for i := 0; i < 1000; i++ {
		value := new(int)
		*value = round
		kept = append(kept, value)
		litter = make([]byte, 512)
	}
	total := 0
	for _, value := range kept {
		total += *value
	}
	results <- total
}

var litter []byte // written only, so that the allocation stays

// profile writes a CPU profile of a program that does little else than block on channels: built with it, the
// compiler finds gopark hot in chanrecv and chansend, and inlines it there.
func profile(path string, seconds int) (answer, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	runtime.SetCPUProfileRate(1000)
	if err := pprof.StartCPUProfile(file); err != nil {
		return nil, err
	}
	for end := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(end); {
		ping(100_000)
	}
	pprof.StopCPUProfile()
	return answer{"profile": path}, nil
}

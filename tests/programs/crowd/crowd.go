package main

import (
	"context"
	"net"
	"os"
	"runtime"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// What goroutines wait on for ever; global so that nothing is collected.
var (
	unbuffered = make(chan int)
	full       = make(chan int, 3)
	never      chan int
	lock       sync.Mutex
	rw         sync.RWMutex
	condLock   sync.Mutex
	condition  = sync.NewCond(&condLock)
	group      sync.WaitGroup
	listener   net.Listener
	pipeRead   int
)

func gather() {
	for i := 0; i < cap(full); i++ {
		full <- i
	}
	lock.Lock()
	rw.Lock()
	group.Add(1)
	listener, _ = net.Listen("tcp", "127.0.0.1:0")
	var fds [2]int
	if syscall.Pipe(fds[:]) == nil {
		pipeRead = fds[0]
	}

	go receive()
	go send(1, "two", []byte("three"))
	go receiveNil()
	go sendNil()
	go selectMany()
	go selectNothing()
	go waitLock()
	go waitReadLock()
	go waitCondition()
	go waitGroup()
	go sleep()
	go accept()
	go blockedSyscall()
	go lockedToThread()
	go recurse(40)
	go inlinedOuter()
	go generic[int](7)
	go generic[[]string](nil)
	go (&method{name: "m"}).wait()
	go (&method{name: "m"}).waitWith(3, "x")
	go deferred()
	go panicked()
	go runtimeGoexit()
	go func() { go func() { <-unbuffered }(); <-unbuffered }()
	time.AfterFunc(0, func() { <-unbuffered })
	labeled := pprof.Labels("endpoint", "/api", "tenant", "a b")
	pprof.Do(context.Background(), labeled, func(context.Context) {
		go receiveLabeled()
		go receiveLabeled()
	})
	many10 := pprof.Labels("k0", "0", "k1", "1", "k2", "2", "k3", "3", "k4", "4", "k5", "5", "k6", "6", "k7", "7",
		"k8", "8", "k9", "9")
	pprof.Do(context.Background(), many10, func(context.Context) { go receiveLabeled() })
	var iface waiter = method{name: "value"}
	go iface.waitValue()
	f := iface.waitValue
	go f()
	time.Sleep(300 * time.Millisecond)
}

func receive() { <-unbuffered }

func receiveLabeled() { <-unbuffered }

//go:noinline
func send(a int, b string, c []byte) { full <- a + len(b) + len(c) }

func receiveNil() { <-never }

func sendNil() { never <- 1 }

func selectMany() {
	other := make(chan string)
	select {
	case <-unbuffered:
	case full <- 1:
	case <-other:
	}
}

func selectNothing() { select {} }

func waitLock() { lock.Lock() }

func waitReadLock() { rw.RLock() }

func waitCondition() {
	condLock.Lock()
	condition.Wait()
}

func waitGroup() { group.Wait() }

func sleep() { time.Sleep(time.Hour) }

func accept() { listener.Accept() }

func blockedSyscall() {
	var buffer [1]byte
	syscall.Read(pipeRead, buffer[:])
}

func lockedToThread() {
	runtime.LockOSThread()
	<-unbuffered
}

//go:noinline
func recurse(depth int) int {
	if depth == 0 {
		return <-unbuffered
	}
	return recurse(depth-1) + 1
}

func inlinedOuter() { inlinedMiddle(1) }

func inlinedMiddle(n int) { inlinedInner(n + 1) }

func inlinedInner(n int) {
	if n > 0 {
		<-unbuffered
	}
}

//go:noinline
func generic[T any](value T) T {
	<-unbuffered
	return value
}

type waiter interface{ waitValue() }

type method struct{ name string }

//go:noinline
func (m *method) wait() { <-unbuffered }

//go:noinline
func (m *method) waitWith(n int, text string) { <-unbuffered }

//go:noinline
func (m method) waitValue() { <-unbuffered }

func deferred() {
	defer func() { <-unbuffered }()
	runtime.Gosched()
}

// panicked waits in a deferred function while a panic is on its way.
func panicked() {
	defer func() {
		<-unbuffered
		recover()
	}()
	var nothing *method
	_ = nothing.name
}

// runtimeGoexit waits in a deferred function while the goroutine is ending.
func runtimeGoexit() {
	defer func() { <-unbuffered }()
	runtime.Goexit()
}

// many starts n goroutines that wait depth calls deep.
func many(n, depth int) {
	var ready sync.WaitGroup
	ready.Add(n)
	for i := 0; i < n; i++ {
		go crowd(depth, &ready)
	}
	ready.Wait()
	// The last ones are just about to park.
	time.Sleep(50 * time.Millisecond)
}

//go:noinline
func crowd(depth int, ready *sync.WaitGroup) int {
	if depth == 0 {
		ready.Done()
		return <-unbuffered
	}
	return crowd(depth-1, ready) + 1
}

var churning int32

func churn(on bool) {
	if !on {
		atomic.StoreInt32(&churning, 0)
		return
	}
	if !atomic.CompareAndSwapInt32(&churning, 0, 1) {
		return
	}
	for i := 0; i < runtime.GOMAXPROCS(0); i++ {
		go breed()
	}
}

func breed() {
	for atomic.LoadInt32(&churning) == 1 {
		var young sync.WaitGroup
		young.Add(8)
		for i := 0; i < 8; i++ {
			go mayfly(&young)
		}
		young.Wait()
	}
}

func mayfly(young *sync.WaitGroup) { young.Done() }

var spinning int32

// spin has one goroutine run without a pause, three calls deep.
func spin(on bool) {
	if !on {
		atomic.StoreInt32(&spinning, 0)
	} else if atomic.CompareAndSwapInt32(&spinning, 0, 1) {
		go spinOuter()
	}
}

func spinOuter() {
	for n := 0; atomic.LoadInt32(&spinning) == 1; n++ {
		spinMiddle(n)
	}
}

//go:noinline
func spinMiddle(n int) int { return spinInner(n) + 1 }

//go:noinline
func spinInner(n int) int {
	for i := 0; i < 1000; i++ {
		n = n*31 + i
	}
	return n
}

func init() {
	if os.Getenv("CROWD_GATHER") != "" {
		gather()
	}
}

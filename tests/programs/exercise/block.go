package main

import (
	"fmt"
	"net"
	"os"
	"regexp"
	"runtime"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A blocking is one way to wait: a site of its own, and how its goroutines are let go.
type blocking struct {
	tally   *tally
	start   func(n int) error // starts n goroutines that block
	release func()            // nil: nothing can end this wait
}

var blockings = map[string]*blocking{}

// blocking kinds are declared with the name of their spawning and their waiting function, which share a suffix.
func newBlocking(name, suffix string, start func(t *tally, n int) error, release func()) {
	t := newTally(name, "main.spawn"+suffix, "main.wait"+suffix)
	blockings[name] = &blocking{t, func(n int) error { return start(t, n) }, release}
}

func blockNames() []string {
	var names []string
	for name := range blockings {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

func block(name string, n int) (answer, error) {
	b, known := blockings[name]
	if !known {
		return nil, fmt.Errorf("no way to block is called %q", name)
	}
	if err := b.start(n); err != nil {
		return nil, err
	}
	alive := int(b.tally.births.Load() - b.tally.exits.Load())
	reason, err := blockedFor(b.tally, alive)
	if err != nil {
		return nil, err
	}
	return answer{
		"blocked": alive, "wait_reason": reason, "releasable": b.release != nil,
		"function": b.tally.function, "start_function": b.tally.start,
	}, nil
}

func release() (answer, error) {
	released := int64(0)
	for _, name := range blockNames() {
		b := blockings[name]
		alive := b.tally.births.Load() - b.tally.exits.Load()
		if b.release == nil || alive == 0 {
			continue
		}
		b.release()
		released += alive
		deadline := time.Now().Add(30 * time.Second)
		for b.tally.births.Load() != b.tally.exits.Load() {
			if time.Now().After(deadline) {
				return nil, fmt.Errorf("%s: still blocked after its release", name)
			}
			time.Sleep(time.Millisecond)
		}
	}
	return answer{"released": released}, nil
}

var header = regexp.MustCompile(`^goroutine \d+ (?:gp=\S+ m=\S+(?: mp=\S+)? )?\[([^],]+)`)

// blockedFor waits until the runtime's own dump shows the tally's n goroutines blocked for one and the same reason,
// and gives its text.
func blockedFor(t *tally, n int) (string, error) {
	deadline := time.Now().Add(30 * time.Second)
	var seen map[string]int
	for time.Now().Before(deadline) {
		seen = map[string]int{}
		for _, traceback := range strings.Split(dump(), "\n\n") {
			p := parsePlace(traceback)
			if p.start != t.start {
				continue
			}
			t.found(p)
			if match := header.FindStringSubmatch(traceback); match != nil {
				seen[match[1]]++
			}
		}
		for reason, count := range seen {
			if count == n && reason != "runnable" && reason != "running" && reason != "syscall" {
				return reason, nil
			}
		}
		time.Sleep(time.Millisecond)
	}
	return "", fmt.Errorf("%d goroutines of %s should be blocked, the runtime says %v", n, t.start, seen)
}

// dumpBuffer is kept: garbage made here would have goroutines that should only block wait for the collector too.
var dumpBuffer = make([]byte, 1<<18)

func dump() string {
	for {
		if n := runtime.Stack(dumpBuffer, true); n < len(dumpBuffer) {
			return string(dumpBuffer[:n])
		}
		dumpBuffer = make([]byte, 2*len(dumpBuffer))
	}
}

// each starts n goroutines by calling a spawner n times.
func each(spawn func()) func(*tally, int) error {
	return func(t *tally, n int) error {
		for i := 0; i < n; i++ {
			t.born()
			spawn()
		}
		return nil
	}
}

var (
	receiveFrom   = make(chan int)
	sendTo        = make(chan int)
	selectA       = make(chan int)
	selectB       = make(chan int)
	nilChannel    chan int
	mutex         sync.Mutex
	readMutex     sync.RWMutex
	readLocked    []*sync.RWMutex
	condMutex     sync.Mutex
	cond          = sync.NewCond(&condMutex)
	condReleased  int // goroutines that may go on, under condMutex
	group         sync.WaitGroup
	sleepReleased atomic.Int64 // goroutines that need not sleep again
)

// closers end the IO waits, in the order they began.
var closers []func() error

func closeAll() {
	for _, closer := range closers {
		closer()
	}
	closers = nil
}

func alive(name string) int64 {
	t := blockings[name].tally
	return t.births.Load() - t.exits.Load()
}

func init() {
	newBlocking("chan-receive", "ChanReceive", each(spawnChanReceive), func() {
		for n := alive("chan-receive"); n > 0; n-- {
			receiveFrom <- 1
		}
	})
	newBlocking("chan-send", "ChanSend", each(spawnChanSend), func() {
		for n := alive("chan-send"); n > 0; n-- {
			<-sendTo
		}
	})
	newBlocking("select", "Select", each(spawnSelect), func() {
		for n := alive("select"); n > 0; n-- {
			selectB <- 1
		}
	})
	newBlocking("chan-receive-nil", "ChanReceiveNil", each(spawnChanReceiveNil), nil)
	newBlocking("chan-send-nil", "ChanSendNil", each(spawnChanSendNil), nil)
	newBlocking("select-empty", "SelectEmpty", each(spawnSelectEmpty), nil)
	newBlocking("mutex", "Mutex", holding(mutex.TryLock, spawnMutex), mutex.Unlock)
	newBlocking("rwmutex-read", "RWMutexRead", holding(readMutex.TryLock, spawnRWMutexRead), readMutex.Unlock)
	newBlocking("rwmutex-write", "RWMutexWrite", func(t *tally, n int) error {
		// One lock each, held by a reader: a second writer would wait for the first one's sync.Mutex instead.
		for i := 0; i < n; i++ {
			lock := new(sync.RWMutex)
			lock.RLock()
			readLocked = append(readLocked, lock)
			t.born()
			spawnRWMutexWrite(lock)
		}
		return nil
	}, func() {
		for _, lock := range readLocked {
			lock.RUnlock()
		}
		readLocked = nil
	})
	newBlocking("cond", "Cond", each(spawnCond), func() {
		condMutex.Lock()
		condReleased += int(alive("cond"))
		condMutex.Unlock()
		cond.Broadcast()
	})
	newBlocking("wait-group", "WaitGroup", func(t *tally, n int) error {
		if alive("wait-group") == 0 {
			group.Add(1)
		}
		return each(spawnWaitGroup)(t, n)
	}, group.Done)
	newBlocking("sleep", "Sleep", each(spawnSleep), func() { sleepReleased.Add(alive("sleep")) })
	newBlocking("pipe-read", "PipeRead", func(t *tally, n int) error {
		for i := 0; i < n; i++ {
			r, w, err := os.Pipe()
			if err != nil {
				return err
			}
			closers = append(closers, w.Close)
			t.born()
			spawnPipeRead(r)
		}
		return nil
	}, closeAll)
	newBlocking("accept", "Accept", func(t *tally, n int) error {
		for i := 0; i < n; i++ {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			closers = append(closers, listener.Close)
			t.born()
			spawnAccept(listener)
		}
		return nil
	}, closeAll)
}

// holding blocks goroutines on a lock that is taken here (or has been since an earlier command).
func holding(take func() bool, spawn func()) func(*tally, int) error {
	return func(t *tally, n int) error {
		take()
		return each(spawn)(t, n)
	}
}

// What waits, waits in a function of its own, which ends the goroutine's life when it returns.

//go:noinline
func waitChanReceive() { defer blockings["chan-receive"].tally.ended(); <-receiveFrom }

//go:noinline
func waitChanSend() { defer blockings["chan-send"].tally.ended(); sendTo <- 1 }

//go:noinline
func waitChanReceiveNil() { <-nilChannel }

//go:noinline
func waitChanSendNil() { nilChannel <- 1 }

//go:noinline
func waitSelectEmpty() { select {} }

//go:noinline
func waitSelect() {
	defer blockings["select"].tally.ended()
	select {
	case <-selectA:
	case <-selectB:
	}
}

//go:noinline
func waitMutex() { defer blockings["mutex"].tally.ended(); mutex.Lock(); mutex.Unlock() }

//go:noinline
func waitRWMutexRead() {
	defer blockings["rwmutex-read"].tally.ended()
	readMutex.RLock()
	readMutex.RUnlock()
}

//go:noinline
func waitRWMutexWrite(lock *sync.RWMutex) {
	defer blockings["rwmutex-write"].tally.ended()
	lock.Lock()
	lock.Unlock()
}

//go:noinline
func waitCond() {
	defer blockings["cond"].tally.ended()
	condMutex.Lock()
	defer condMutex.Unlock()
	for condReleased == 0 {
		cond.Wait()
	}
	condReleased--
}

//go:noinline
func waitWaitGroup() { defer blockings["wait-group"].tally.ended(); group.Wait() }

//go:noinline
func waitSleep() {
	defer blockings["sleep"].tally.ended()
	for {
		time.Sleep(50 * time.Millisecond)
		if left := sleepReleased.Load(); left > 0 && sleepReleased.CompareAndSwap(left, left-1) {
			return
		}
	}
}

//go:noinline
func waitPipeRead(r *os.File) {
	defer blockings["pipe-read"].tally.ended()
	defer r.Close()
	var buffer [1]byte
	r.Read(buffer[:])
}

//go:noinline
func waitAccept(listener net.Listener) {
	defer blockings["accept"].tally.ended()
	if connection, err := listener.Accept(); err == nil {
		connection.Close()
	}
}

// One site per way to wait.

//go:noinline
func spawnChanReceive() { go waitChanReceive() }

//go:noinline
func spawnChanSend() { go waitChanSend() }

//go:noinline
func spawnChanReceiveNil() { go waitChanReceiveNil() }

//go:noinline
func spawnChanSendNil() { go waitChanSendNil() }

//go:noinline
func spawnSelect() { go waitSelect() }

//go:noinline
func spawnSelectEmpty() { go waitSelectEmpty() }

//go:noinline
func spawnMutex() { go waitMutex() }

//go:noinline
func spawnRWMutexRead() { go waitRWMutexRead() }

//go:noinline
func spawnRWMutexWrite(lock *sync.RWMutex) { go waitRWMutexWrite(lock) }

//go:noinline
func spawnCond() { go waitCond() }

//go:noinline
func spawnWaitGroup() { go waitWaitGroup() }

//go:noinline
func spawnSleep() { go waitSleep() }

//go:noinline
func spawnPipeRead(r *os.File) { go waitPipeRead(r) }

//go:noinline
func spawnAccept(listener net.Listener) { go waitAccept(listener) }

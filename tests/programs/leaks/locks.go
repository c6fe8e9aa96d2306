package main

import (
	"context"
	"runtime"
	"sync"
	"time"
)

func init() {
	leaky("missing-unlock", "held-lock", func() { c := &cache{}; every(300*time.Millisecond, func() { go c.get() }) }, "main.init", "main.(*cache).get", "main.init.func")
	leaky("double-lock", "held-lock", func() { every(time.Second, doubleLock) }, "main.doubleLock")
	leaky("lock-held-by-blocked", "held-lock", lockHeldByBlocked, "main.lockHeldByBlocked", "main.(*index).refresh", "main.(*index).lookup")
	leaky("ab-ba", "lock-order", abba, "main.abba", "main.transfer")
	leaky("rwmutex-reader-inside", "held-lock", rwInside, "main.rwInside", "main.(*table).size", "main.(*table).put", "main.(*table).read")
	leaky("wait-group-add-twice", "wait-group", func() { every(500*time.Millisecond, addTwice) }, "main.addTwice")
	leaky("wait-group-done-skipped", "wait-group", func() { every(500*time.Millisecond, doneSkipped) }, "main.doneSkipped")
	leaky("cond-never-signalled", "condition", condNever, "main.condNever")
	leaky("ticker-loops", "timer-loop", func() { every(500*time.Millisecond, func() { newSession() }) }, "main.newSession")
	leaky("sleep-loops", "timer-loop", func() { every(500*time.Millisecond, func() { go pollForever() }) }, "main.init", "main.pollForever", "main.every", "main.init.func")
	leaky("after-func-blocks", "after-func", func() { every(400*time.Millisecond, expire) }, "main.expire")
	leaky("finalizer-blocks", "finalizer", finalizerBlocks, "main.finalizerBlocks", "main.closeSlowly", "runtime.createfing", "runtime.SetFinalizer")
	leaky("context-custom-parent", "context", func() { every(400*time.Millisecond, customParent) }, "main.customParent", "context.(*cancelCtx).propagateCancel")
	leaky("pool-per-request", "missing-sender", func() { every(2*time.Second, poolPerRequest) }, "main.poolPerRequest")

	healthy("lock-convoy", lockConvoy)
	healthy("rwmutex-load", rwLoad)
	healthy("cond-queue", condQueue)
	healthy("wait-group-batches", func() { every(3*time.Second, batch) })
	healthy("tickers", tickers)
	healthy("debounce-after-func", func() { every(100*time.Millisecond, debounce) })
	healthy("finalizers-quick", finalizersQuick)
	healthy("contexts-cancelled", func() { every(100*time.Millisecond, contexts) })
	healthy("sessions-that-end", func() { every(300*time.Millisecond, func() { sessionThatEnds(6 * time.Second) }) })
	healthy("cpu-batch", func() { every(2*time.Second, cpuBatch) })
	healthy("cron", cron)
	healthy("retry-backoff", func() { every(700*time.Millisecond, retryBackoff) })
}

type cache struct {
	mu   sync.Mutex
	hits int
}

func (c *cache) get() int {
	c.mu.Lock()
	c.hits++
	if c.hits == 3 {
		return 0 // without Unlock
	}
	c.mu.Unlock()
	return c.hits
}

func doubleLock() {
	var mu sync.Mutex
	go func() {
		mu.Lock()
		mu.Lock()
	}()
}

type index struct {
	mu   sync.Mutex
	news chan int
}

func (i *index) refresh() {
	i.mu.Lock()
	defer i.mu.Unlock()
	<-i.news
}

func (i *index) lookup() {
	i.mu.Lock()
	defer i.mu.Unlock()
}

func lockHeldByBlocked() {
	i := &index{news: make(chan int)}
	go i.refresh()
	every(500*time.Millisecond, func() { go i.lookup() })
}

func transfer(from, to *sync.Mutex) {
	from.Lock()
	defer from.Unlock()
	time.Sleep(5 * time.Millisecond)
	to.Lock()
	defer to.Unlock()
}

func abba() {
	every(time.Second, func() {
		var a, b sync.Mutex
		go transfer(&a, &b)
		go transfer(&b, &a)
	})
}

type table struct {
	mu   sync.RWMutex
	rows int
}

func (t *table) size() int { t.mu.RLock(); defer t.mu.RUnlock(); return t.rows }
func (t *table) put()      { t.mu.Lock(); defer t.mu.Unlock(); t.rows++ }
func (t *table) read() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	time.Sleep(50 * time.Millisecond)
	return t.size() // a writer came in between
}

func rwInside() {
	t := &table{}
	every(400*time.Millisecond, func() {
		go t.read()
		time.Sleep(10 * time.Millisecond)
		go t.put()
	})
}

func addTwice() {
	var wg sync.WaitGroup
	wg.Add(2)
	go wg.Done()
	go func() { wg.Wait() }()
}

func doneSkipped() {
	var wg sync.WaitGroup
	for i := 0; i < 3; i++ {
		wg.Add(1)
		i := i
		go func() {
			if i == 1 {
				return
			}
			wg.Done()
		}()
	}
	go wg.Wait()
}

func condNever() {
	every(400*time.Millisecond, func() {
		var mu sync.Mutex
		ready := sync.NewCond(&mu)
		go func() {
			mu.Lock()
			ready.Wait()
			mu.Unlock()
		}()
	})
}

func newSession() {
	beat := time.NewTicker(200 * time.Millisecond)
	go func() {
		for range beat.C {
		}
	}()
}

func pollForever() {
	for {
		time.Sleep(150 * time.Millisecond)
	}
}

func expire() {
	evicted := make(chan string)
	time.AfterFunc(50*time.Millisecond, func() { evicted <- "key" })
}

type handle struct{ data [64]byte }

func closeSlowly(h *handle) { select {} }

func finalizerBlocks() {
	every(300*time.Millisecond, func() {
		h := &handle{}
		runtime.SetFinalizer(h, closeSlowly)
		runtime.GC()
	})
}

type customContext struct {
	context.Context
	done chan struct{}
}

func (c customContext) Done() <-chan struct{} { return c.done }

func customParent() {
	parent := customContext{context.Background(), make(chan struct{})}
	child, cancel := context.WithCancel(parent)
	_, _ = child, cancel
}

func poolPerRequest() {
	jobs := make(chan int)
	for i := 0; i < 4; i++ {
		go func() {
			for range jobs {
			}
		}()
	}
	jobs <- 1
}

func lockConvoy() {
	var mu sync.Mutex
	every(250*time.Millisecond, func() {
		go func() {
			mu.Lock()
			time.Sleep(240 * time.Millisecond)
			mu.Unlock()
		}()
	})
}

func rwLoad() {
	t := &table{}
	for i := 0; i < 10; i++ {
		every(20*time.Millisecond, func() { t.size() })
	}
	every(100*time.Millisecond, t.put)
}

func condQueue() {
	var mu sync.Mutex
	filled := sync.NewCond(&mu)
	n := 0
	for i := 0; i < 12; i++ {
		go func() {
			for {
				mu.Lock()
				for n == 0 {
					filled.Wait()
				}
				n--
				mu.Unlock()
			}
		}()
	}
	every(5*time.Second, func() { mu.Lock(); n++; mu.Unlock(); filled.Signal() })
}

func batch() {
	var wg sync.WaitGroup
	for i := 0; i < 10; i++ {
		wg.Add(1)
		go func() { defer wg.Done(); time.Sleep(2500 * time.Millisecond) }()
	}
	wg.Wait()
}

func tickers() {
	for i := 0; i < 15; i++ {
		every(time.Duration(i+1)*time.Second, func() {})
	}
}

var pending *time.Timer

func debounce() {
	if pending != nil {
		pending.Stop()
	}
	pending = time.AfterFunc(time.Second, func() {})
}

func finalizersQuick() {
	every(200*time.Millisecond, func() {
		h := &handle{}
		runtime.SetFinalizer(h, func(*handle) { time.Sleep(time.Millisecond) })
		runtime.GC()
	})
}

func contexts() {
	parent := customContext{context.Background(), make(chan struct{})}
	child, cancel := context.WithTimeout(parent, 3*time.Second)
	go func() { defer cancel(); <-child.Done() }()
}

func sessionThatEnds(lasts time.Duration) {
	beat := time.NewTicker(200 * time.Millisecond)
	end := time.After(lasts)
	go func() {
		defer beat.Stop()
		for {
			select {
			case <-beat.C:
			case <-end:
				return
			}
		}
	}()
}

func cpuBatch() {
	go func() {
		end := time.Now().Add(100 * time.Millisecond)
		for time.Now().Before(end) {
		}
	}()
}

func cron() {
	for i := 0; i < 8; i++ {
		go func() {
			for {
				time.Sleep(30 * time.Second)
			}
		}()
	}
}

func retryBackoff() {
	go func() {
		for wait := 100 * time.Millisecond; wait < 4*time.Second; wait *= 2 {
			time.Sleep(wait)
		}
	}()
}

package main

import (
	"context"
	"errors"
	"math/rand"
	"sync"
	"time"
)

func init() {
	leaky("timeout-abandons-sender", "abandoned-sender", func() { every(400*time.Millisecond, timeoutAbandons) }, "main.timeoutAbandons", "main.fetchQuote")
	leaky("early-return", "abandoned-sender", func() { every(300*time.Millisecond, func() { earlyReturn() }) }, "main.earlyReturn")
	leaky("ncast", "abandoned-sender", func() { every(time.Second, func() { firstOf(4) }) }, "main.firstOf")
	leaky("double-send", "abandoned-sender", func() { every(300*time.Millisecond, doubleSend) }, "main.doubleSend")
	leaky("range-never-closed", "missing-sender", func() { every(300*time.Millisecond, rangeNeverClosed) }, "main.rangeNeverClosed")
	leaky("result-never-sent", "missing-sender", func() { every(400*time.Millisecond, resultNeverSent) }, "main.resultNeverSent", "main.await")
	leaky("start-without-stop", "stuck-select", func() { every(500*time.Millisecond, startWithoutStop) }, "main.(*watcher).start", "main.startWithoutStop", "main.(*watcher).loop")
	leaky("nil-channel-config", "nil-channel", func() { every(time.Second, nilChannel) }, "main.nilChannel")
	leaky("empty-select", "empty-select", func() { every(2*time.Second, func() { go serveForever() }) }, "main.init", "main.serveForever", "main.every")
	leaky("generic-fanin", "abandoned-sender", func() { every(400*time.Millisecond, func() { fanIn([]int{1, 2, 3}) }) }, "main.fanIn", "main.merge", "main.merge[...]")
	leaky("through-own-helper", "abandoned-sender", func() { every(400*time.Millisecond, reserveStock) }, "main.reserveStock")
	leaky("through-wait-group-helper", "abandoned-sender", func() { every(time.Second, priceAll) }, "main.priceAll")
	leaky("stepwise", "abandoned-sender", func() { every(5*time.Second, func() { burstLeak(8) }) }, "main.burstLeak")
	leaky("slow-drip", "abandoned-sender", func() { every(3*time.Second, dripLeak) }, "main.dripLeak")
	leaky("fast-flood", "missing-sender", func() { every(5*time.Millisecond, flood) }, "main.flood")
	leaky("from-before", "abandoned-sender", fromBefore, "main.fromBefore")
	leaky("some-of-many", "abandoned-sender", someOfMany, "main.handleOrder")
	leaky("shared-done-never-closed", "missing-sender", sharedDone, "main.sharedDone")
	leaky("needle-in-haystack", "abandoned-sender", needle, "main.lose")
	leaky("context-nobody-cancels", "stuck-select", func() { every(400*time.Millisecond, perRequestWorker) }, "main.perRequestWorker")
	leaky("cancel-not-heeded", "missing-sender", func() { every(400*time.Millisecond, notHeeded) }, "main.notHeeded")

	healthy("idle-pool", idlePool)
	healthy("busy-pool", busyPool)
	healthy("pipeline-backpressure", pipeline)
	healthy("burst-that-drains", burstDrains)
	healthy("burst-idle-workers", func() { lazyPool(30) })
	healthy("subscribers-silent", func() { subscribe(50, time.Hour) })
	healthy("subscribers-events", func() { subscribe(20, 2*time.Second) })
	healthy("slow-finite-work", func() { every(300*time.Millisecond, func() { slowWork(10 * time.Second) }) })
	healthy("request-results", func() { every(50*time.Millisecond, requestResult) })
	healthy("buffered-result-timeout", func() { every(300*time.Millisecond, bufferedTimeout) })
	healthy("errgroup-slow", func() { every(4*time.Second, slowGroup) })
	healthy("wave-of-load", waveOfLoad)
	healthy("many-pools", func() {
		for i := 0; i < 40; i++ {
			idlePool()
		}
	})
	healthy("leader-election", leaderElection)
	healthy("signal-loop", signalLoop)
	healthy("semaphore-queue", semaphoreQueue)
	healthy("warm-up", warmUp)
	healthy("long-poll", longPoll)
}

// --- leaky ---

func fetchQuote(out chan<- int) {
	time.Sleep(50 * time.Millisecond)
	out <- rand.Int()
}

func timeoutAbandons() {
	quote := make(chan int)
	go fetchQuote(quote)
	select {
	case <-quote:
	case <-time.After(20 * time.Millisecond):
	}
}

func earlyReturn() error {
	result := make(chan string)
	go func() {
		time.Sleep(5 * time.Millisecond)
		result <- "stock"
	}()
	if rand.Intn(4) > 0 {
		return errors.New("invalid order")
	}
	<-result
	return nil
}

func firstOf(n int) int {
	answers := make(chan int)
	for i := 0; i < n; i++ {
		i := i
		go func() {
			time.Sleep(time.Duration(i) * time.Millisecond)
			answers <- i
		}()
	}
	return <-answers
}

func doubleSend() {
	done := make(chan error)
	go func() {
		err := errors.New("oops")
		if err != nil {
			done <- err
		}
		done <- nil
	}()
	<-done
}

func rangeNeverClosed() {
	lines := make(chan string)
	go func() {
		for range lines {
		}
	}()
	for i := 0; i < 3; i++ {
		lines <- "line"
	}
}

func await(ready chan struct{}) { <-ready }

func resultNeverSent() {
	ready := make(chan struct{})
	go await(ready)
	if rand.Intn(10) == 0 {
		close(ready)
	}
}

type watcher struct {
	events chan int
	stop   chan struct{}
}

func (w *watcher) start() { go w.loop() }
func (w *watcher) loop() {
	for {
		select {
		case <-w.events:
		case <-w.stop:
			return
		}
	}
}

func startWithoutStop() {
	w := &watcher{events: make(chan int), stop: make(chan struct{})}
	w.start()
	w.events <- 1
}

func nilChannel() {
	var config chan string
	go func() { <-config }()
}

func serveForever() { select {} }

func merge[T any](sources ...chan T) chan T {
	out := make(chan T)
	for _, source := range sources {
		source := source
		go func() {
			for v := range source {
				out <- v
			}
		}()
	}
	return out
}

func fanIn(values []int) int {
	var sources []chan int
	for _, v := range values {
		source := make(chan int, 1)
		source <- v
		close(source)
		sources = append(sources, source)
	}
	return <-merge(sources...)
}

// safely is a helper as many services have one.
func safely(f func()) {
	go func() {
		defer func() { recover() }()
		f()
	}()
}

func reserveStock() {
	reserved := make(chan bool)
	safely(func() {
		time.Sleep(10 * time.Millisecond)
		reserved <- true
	})
	select {
	case <-reserved:
	case <-time.After(time.Millisecond):
	}
}

type group struct {
	wg   sync.WaitGroup
	once sync.Once
	err  error
}

func (g *group) Go(f func() error) {
	g.wg.Add(1)
	go func() {
		defer g.wg.Done()
		if err := f(); err != nil {
			g.once.Do(func() { g.err = err })
		}
	}()
}

func priceAll() {
	prices := make(chan int)
	var g group
	for i := 0; i < 4; i++ {
		i := i
		g.Go(func() error {
			time.Sleep(time.Millisecond)
			prices <- i
			return nil
		})
	}
	<-prices
	<-prices
}

func burstLeak(n int) {
	for i := 0; i < n; i++ {
		c := make(chan int)
		go func() { c <- 1 }()
	}
}

func dripLeak() {
	c := make(chan int)
	go func() { c <- 1 }()
}

func flood() {
	c := make(chan int)
	go func() { <-c }()
}

// fromBefore leaks in its first seconds and then only now and then.
func fromBefore() {
	leak := func() {
		for i := 0; i < 5; i++ {
			c := make(chan int)
			go func() { c <- 1 }()
		}
	}
	go func() {
		for i := 0; ; i++ {
			leak()
			for j := 0; j < 20; j++ {
				go func() {}()
			}
			if i < 20 {
				time.Sleep(100 * time.Millisecond)
			} else {
				time.Sleep(10 * time.Second)
			}
		}
	}()
}

// handleOrder leaks one of ten orders.
func handleOrder(i int) {
	paid := make(chan bool)
	go func() {
		time.Sleep(time.Duration(rand.Intn(200)) * time.Millisecond)
		paid <- true
	}()
	if i%10 == 0 {
		return
	}
	<-paid
}

func someOfMany() {
	i := 0
	every(20*time.Millisecond, func() {
		i++
		go handleOrder(i)
	})
}

func sharedDone() {
	shutdown := make(chan struct{})
	every(300*time.Millisecond, func() {
		go func() { <-shutdown }()
	})
}

func perRequestWorker() {
	ctx, cancel := context.WithCancel(context.Background())
	_ = cancel
	jobs := make(chan int)
	go func() {
		for {
			select {
			case <-jobs:
			case <-ctx.Done():
				return
			}
		}
	}()
	jobs <- 1
}

func notHeeded() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	answer := make(chan int)
	go func() {
		// It has the context and does not look at it.
		_ = ctx
		<-answer
	}()
	<-ctx.Done()
}

// needle loses two a second beside 40 idle pools and 10,000 goroutines that are well.
func needle() {
	for i := 0; i < 40; i++ {
		idlePool()
	}
	sessions := make([]chan int, 10000)
	for i := range sessions {
		in := make(chan int)
		sessions[i] = in
		go func() {
			for range in {
			}
		}()
	}
	i := 0
	every(time.Millisecond, func() { i++; sessions[i%len(sessions)] <- 1 })
	every(500*time.Millisecond, lose)
}

func lose() {
	c := make(chan int)
	go func() { c <- 1 }()
}

// --- healthy ---

func idlePool() {
	jobs := make(chan func())
	for i := 0; i < 16; i++ {
		go func() {
			for job := range jobs {
				job()
			}
		}()
	}
	keep = append(keep, jobs)
}

var keep []any

func busyPool() {
	jobs := make(chan func())
	for i := 0; i < 8; i++ {
		go func() {
			for job := range jobs {
				job()
			}
		}()
	}
	every(10*time.Millisecond, func() { jobs <- func() { time.Sleep(30 * time.Millisecond) } })
}

func pipeline() {
	source, out := make(chan int), make(chan int)
	go func() {
		for i := 0; ; i++ {
			source <- i
		}
	}()
	for i := 0; i < 10; i++ {
		go func() {
			for v := range source {
				out <- v
			}
		}()
	}
	go func() {
		for range out {
			time.Sleep(100 * time.Millisecond)
		}
	}()
}

func burstDrains() {
	every(15*time.Second, func() {
		for i := 0; i < 200; i++ {
			go func() { time.Sleep(time.Duration(rand.Intn(10000)) * time.Millisecond) }()
		}
	})
}

// lazyPool grows to its size with the first jobs, and keeps its workers.
func lazyPool(size int) {
	jobs := make(chan func())
	workers := 0
	every(100*time.Millisecond, func() {
		job := func() { time.Sleep(time.Second) }
		select {
		case jobs <- job:
		default:
			if workers < size {
				workers++
				go func() {
					for job := range jobs {
						job()
					}
				}()
			}
		}
	})
}

func subscribe(n int, period time.Duration) {
	var mu sync.Mutex
	var subscribers []chan int
	for i := 0; i < n; i++ {
		c := make(chan int, 1)
		subscribers = append(subscribers, c)
		go func() {
			for range c {
			}
		}()
	}
	keep = append(keep, &subscribers)
	every(period, func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range subscribers {
			c <- 1
		}
	})
}

func slowWork(lasts time.Duration) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		end := time.Now().Add(lasts)
		for time.Now().Before(end) {
			time.Sleep(200 * time.Millisecond)
		}
	}()
	go func() { <-done }()
}

func requestResult() {
	answer := make(chan int)
	go func() {
		time.Sleep(20 * time.Millisecond)
		answer <- 1
	}()
	<-answer
}

func bufferedTimeout() {
	answer := make(chan int, 1)
	go func() {
		time.Sleep(50 * time.Millisecond)
		answer <- 1
	}()
	select {
	case <-answer:
	case <-time.After(10 * time.Millisecond):
	}
}

func slowGroup() {
	go func() {
		var g group
		for i := 0; i < 6; i++ {
			g.Go(func() error {
				for j := 0; j < 80; j++ {
					time.Sleep(100 * time.Millisecond)
				}
				return nil
			})
		}
		g.wg.Wait()
	}()
}

// waveOfLoad has more and fewer requests, as days do, a minute long.
func waveOfLoad() {
	start := time.Now()
	every(50*time.Millisecond, func() {
		phase := time.Since(start).Seconds() / 20
		n := int(4 + 4*triangle(phase))
		for i := 0; i < n; i++ {
			go func() { time.Sleep(time.Duration(1000+rand.Intn(4000)) * time.Millisecond) }()
		}
	})
}

func triangle(x float64) float64 {
	x -= float64(int(x))
	if x < 0.5 {
		return 2 * x
	}
	return 2 - 2*x
}

func leaderElection() {
	lead := make(chan struct{})
	stop := make(chan struct{})
	for i := 0; i < 3; i++ {
		go func() {
			renew := time.NewTicker(2 * time.Second)
			defer renew.Stop()
			for {
				select {
				case <-renew.C:
				case <-lead:
				case <-stop:
					return
				}
			}
		}()
	}
}

func signalLoop() {
	stop := make(chan int)
	go func() { <-stop }()
	go func() {
		select {
		case <-stop:
		case <-context.Background().Done():
		}
	}()
	keep = append(keep, stop)
}

// semaphoreQueue has more to do than may be done at once, and does it.
func semaphoreQueue() {
	slots := make(chan struct{}, 4)
	every(100*time.Millisecond, func() {
		if len(slots) == cap(slots) && rand.Intn(3) > 0 {
			return
		}
		go func() {
			slots <- struct{}{}
			time.Sleep(300 * time.Millisecond)
			<-slots
		}()
	})
}

// warmUp fills caches after a deploy: each entry has a refresher, and after 12 s there are all.
func warmUp() {
	n := 0
	every(200*time.Millisecond, func() {
		if n < 60 {
			n++
			refresh := make(chan int)
			keep = append(keep, refresh)
			go func() {
				for range refresh {
				}
			}()
		}
	})
}

// longPoll has clients that wait up to 12 s for news.
func longPoll() {
	news := make(chan int)
	every(400*time.Millisecond, func() {
		go func() {
			select {
			case <-news:
			case <-time.After(time.Duration(4+rand.Intn(8)) * time.Second):
			}
		}()
	})
}

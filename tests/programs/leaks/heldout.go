package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"
)

// registerHeldOut has the cases that were written after the weights were set: they are only measured on.
func registerHeldOut() {
	leaky("hub-unsubscribe-forgotten", "missing-sender", hubForgets, "main.(*hub).subscribe", "main.(*hub).listen", "main.hubForgets")
	leaky("sse-handler-heeds-nothing", "missing-sender", sseHeedsNothing, "main.sseHeedsNothing", "main.(*feed).ServeHTTP")
	leaky("semaphore-not-released", "abandoned-sender", semaphoreNotReleased, "main.semaphoreNotReleased", "main.(*limiter).do")
	leaky("rows-not-closed", "database-rows", rowsNotClosed, "main.countOrders", "main.rowsNotClosed", "database/sql.(*Rows).initContextClose")
	leaky("tx-not-finished", "database-rows", txNotFinished, "main.updateOrder", "main.txNotFinished", "database/sql.(*DB).beginDC")
	leaky("pool-exhausted", "database-pool", poolExhausted, "main.poolExhausted", "main.slowQuery")
	leaky("child-process-hangs", "syscall", childHangs, "main.convert", "main.childHangs", "os/exec.(*Cmd).Start")
	leaky("net-pipe-peer-gone", "stuck-select", netPipe, "main.netPipe", "main.copyIn")
	leaky("batcher-per-tenant", "timer-loop", batchers, "main.newBatcher", "main.(*batcher).run", "main.batchers")
	leaky("retry-for-ever", "timer-loop", retryForEver, "main.retry", "main.retryForEver", "main.deliver")
	leaky("singleflight-leader-lost", "missing-sender", flightLost, "main.(*flight).do", "main.flightLost")
	leaky("once-that-waits-for-itself", "held-lock", onceWaits, "main.onceWaits", "main.(*lazy).get")
	leaky("lock-upgrade", "held-lock", lockUpgrade, "main.(*registry).upsert", "main.lockUpgrade")
	leaky("panic-skips-done", "wait-group", panicSkips, "main.panicSkips", "main.gather")
	leaky("stream-consumer-stops-early", "abandoned-sender", streamStops, "main.streamRows", "main.firstRow", "main.streamStops")
	leaky("event-bus-full", "abandoned-sender", busFull, "main.(*bus).publish", "main.busFull")
	leaky("shutdown-hook-per-request", "stuck-select", shutdownHook, "main.shutdownHook", "main.onShutdown")
	leaky("error-chan-unread", "abandoned-sender", errorUnread, "main.parallel", "main.errorUnread", "main.parallel[...]")
	leaky("closure-chain-helper", "missing-sender", helperChain, "main.auditOrder", "main.helperChain")
	leaky("tcp-forwarder-half-closed", "network-read", forwarder, "main.forward", "main.forwarder", "main.copyBytes")
	leaky("post-body-not-closed", "response-body", postNotClosed, "main.notify", "main.postNotClosed")

	healthy("hub-in-use", hubInUse)
	healthy("sse-clients-with-heartbeat", sseHeartbeat)
	healthy("sql-pool-in-use", sqlInUse)
	healthy("sql-pool-waits", sqlWaits)
	healthy("children-that-end", childrenEnd)
	healthy("batcher-with-stop", batchersStop)
	healthy("retry-that-gives-up", retryGivesUp)
	healthy("singleflight-under-load", flightLoad)
	healthy("rolling-reload", rollingReload)
	healthy("plateau-of-sessions", plateau)
	healthy("quota-waits", quotaWaits)
	healthy("periodic-report", periodicReport)
	healthy("fan-out-fan-in", fanOutFanIn)
	healthy("forwarder-in-use", forwarderInUse)
	healthy("once-many-wait-briefly", onceBriefly)
	healthy("cache-with-janitor", janitors)
	healthy("consumer-rebalance", rebalance)
	healthy("health-checks", healthChecks)
	healthy("ramp-then-steady", rampSteady)
	healthy("drained-queue", drainedQueue)
}

// --- leaky ---

type hub struct {
	mu   sync.Mutex
	subs map[int]chan string
	next int
}

func (h *hub) subscribe() chan string {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := make(chan string, 8)
	h.next++
	h.subs[h.next] = c
	go h.listen(c)
	return c
}

func (h *hub) listen(c chan string) {
	for range c {
	}
}

func hubForgets() {
	h := &hub{subs: map[int]chan string{}}
	every(450*time.Millisecond, func() { h.subscribe() })
}

type feed struct{ news chan string }

func (f *feed) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Write([]byte("hello\n"))
	w.(http.Flusher).Flush()
	for item := range f.news { // the client may be gone
		fmt.Fprintln(w, item)
	}
}

func sseHeedsNothing() {
	f := &feed{news: make(chan string)}
	s := server(f.ServeHTTP)
	every(500*time.Millisecond, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		request, _ := http.NewRequestWithContext(ctx, "GET", s.URL, nil)
		if response, err := http.DefaultClient.Do(request); err == nil {
			io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}
	})
}

type limiter struct{ slots chan struct{} }

func (l *limiter) do(fail bool) error {
	l.slots <- struct{}{}
	if fail {
		return errors.New("slot lost")
	}
	<-l.slots
	return nil
}

func semaphoreNotReleased() {
	l := &limiter{slots: make(chan struct{}, 3)}
	i := 0
	every(300*time.Millisecond, func() {
		i++
		fail := i%4 == 0
		go l.do(fail)
	})
}

// A driver that answers everything with two rows.
type fakeDriver struct{ slow time.Duration }
type fakeConn struct{ slow time.Duration }
type fakeStmt struct{ slow time.Duration }
type fakeRows struct{ left int }
type fakeTx struct{}

func (d fakeDriver) Open(string) (driver.Conn, error)       { return fakeConn{d.slow}, nil }
func (c fakeConn) Prepare(string) (driver.Stmt, error)      { return fakeStmt{c.slow}, nil }
func (fakeConn) Close() error                               { return nil }
func (fakeConn) Begin() (driver.Tx, error)                  { return fakeTx{}, nil }
func (fakeTx) Commit() error                                { return nil }
func (fakeTx) Rollback() error                              { return nil }
func (fakeStmt) Close() error                               { return nil }
func (fakeStmt) NumInput() int                              { return 0 }
func (fakeStmt) Exec([]driver.Value) (driver.Result, error) { return driver.RowsAffected(1), nil }
func (s fakeStmt) Query([]driver.Value) (driver.Rows, error) {
	time.Sleep(s.slow)
	return &fakeRows{2}, nil
}
func (*fakeRows) Columns() []string { return []string{"n"} }
func (*fakeRows) Close() error      { return nil }
func (r *fakeRows) Next(dest []driver.Value) error {
	if r.left == 0 {
		return io.EOF
	}
	r.left--
	dest[0] = int64(r.left)
	return nil
}

var registered atomic.Int64

func database(slow time.Duration) *sql.DB {
	name := fmt.Sprint("fake", registered.Add(1))
	sql.Register(name, fakeDriver{slow})
	db, err := sql.Open(name, "")
	if err != nil {
		panic(err)
	}
	return db
}

func countOrders(ctx context.Context, db *sql.DB) bool {
	rows, err := db.QueryContext(ctx, "select")
	if err != nil {
		return false
	}
	return rows.Next() // and no Close
}

func rowsNotClosed() {
	db := database(time.Millisecond)
	ctx, cancel := context.WithCancel(context.Background())
	keep = append(keep, cancel)
	every(400*time.Millisecond, func() { countOrders(ctx, db) })
}

func updateOrder(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "update"); err != nil || rand.Intn(3) > 0 {
		return errors.New("neither commit nor rollback")
	}
	return tx.Commit()
}

func txNotFinished() {
	db := database(time.Millisecond)
	ctx, cancel := context.WithCancel(context.Background())
	keep = append(keep, cancel)
	every(350*time.Millisecond, func() { updateOrder(ctx, db) })
}

func slowQuery(db *sql.DB) {
	rows, err := db.Query("select")
	if err != nil {
		return
	}
	rows.Next()
}

func poolExhausted() {
	db := database(time.Millisecond)
	db.SetMaxOpenConns(4)
	every(400*time.Millisecond, func() { go slowQuery(db) })
}

func convert() error { return exec.Command("sleep", "1000000").Run() }

func childHangs() { every(700*time.Millisecond, func() { go convert() }) }

func copyIn(c net.Conn) { io.Copy(io.Discard, c) }

func netPipe() {
	every(450*time.Millisecond, func() {
		a, b := net.Pipe()
		keep = append(keep, b)
		go copyIn(a)
	})
}

type batcher struct {
	items chan int
	buf   []int
}

func newBatcher() *batcher {
	b := &batcher{items: make(chan int, 4)}
	go b.run()
	return b
}

func (b *batcher) run() {
	flush := time.NewTicker(400 * time.Millisecond)
	for {
		select {
		case i := <-b.items:
			b.buf = append(b.buf, i)
		case <-flush.C:
			b.buf = b.buf[:0]
		}
	}
}

func batchers() { every(600*time.Millisecond, func() { newBatcher().items <- 1 }) }

func retry(f func() error) {
	for wait := 50 * time.Millisecond; f() != nil; {
		time.Sleep(wait)
		if wait < time.Second {
			wait *= 2
		}
	}
}

func deliver() { retry(func() error { return errors.New("never") }) }

func retryForEver() { every(500*time.Millisecond, func() { go deliver() }) }

type flight struct {
	mu    sync.Mutex
	calls map[string]chan struct{}
}

func (f *flight) do(key string, fail bool) {
	f.mu.Lock()
	if c, ok := f.calls[key]; ok {
		f.mu.Unlock()
		<-c
		return
	}
	c := make(chan struct{})
	f.calls[key] = c
	f.mu.Unlock()
	if fail {
		return // those who wait are not told
	}
	close(c)
	f.mu.Lock()
	delete(f.calls, key)
	f.mu.Unlock()
}

func flightLost() {
	f := &flight{calls: map[string]chan struct{}{}}
	i := 0
	every(250*time.Millisecond, func() {
		i++
		key, fail := fmt.Sprint(i%8), i%16 == 3
		go f.do(key, fail)
	})
}

type lazy struct {
	once  sync.Once
	ready chan struct{}
}

func (l *lazy) get() { l.once.Do(func() { <-l.ready }) }

func onceWaits() {
	l := &lazy{ready: make(chan struct{})}
	every(500*time.Millisecond, func() { go l.get() })
}

type registry struct {
	mu   sync.RWMutex
	seen map[int]bool
}

func (r *registry) upsert(i int) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if !r.seen[i] {
		r.mu.Lock()
		r.seen[i] = true
		r.mu.Unlock()
	}
}

func lockUpgrade() {
	r := &registry{seen: map[int]bool{}}
	i := 0
	every(600*time.Millisecond, func() {
		i++
		n := i
		go r.upsert(n)
	})
}

func gather(n int) {
	var wg sync.WaitGroup
	for i := 0; i < n; i++ {
		wg.Add(1)
		i := i
		go func() {
			defer func() { recover() }()
			if i == 2 {
				panic("bad record")
			}
			wg.Done()
		}()
	}
	wg.Wait()
}

func panicSkips() { every(550*time.Millisecond, func() { go gather(4) }) }

func streamRows(n int) <-chan int {
	rows := make(chan int)
	go func() {
		defer close(rows)
		for i := 0; i < n; i++ {
			rows <- i
		}
	}()
	return rows
}

func firstRow() int {
	for row := range streamRows(10) {
		return row
	}
	return 0
}

func streamStops() { every(450*time.Millisecond, func() { firstRow() }) }

type bus struct{ events chan int }

func (b *bus) publish(i int) { go func() { b.events <- i }() }

func busFull() {
	b := &bus{events: make(chan int, 16)}
	every(250*time.Millisecond, func() { b.publish(1) })
}

var stopping = make(chan struct{})

func onShutdown(f func(), ctx context.Context) {
	go func() {
		select {
		case <-stopping:
			f()
		case <-ctx.Done():
		}
	}()
}

func shutdownHook() {
	every(400*time.Millisecond, func() {
		ctx, cancel := context.WithCancel(context.Background())
		keep = append(keep, cancel)
		onShutdown(func() {}, ctx)
	})
}

func parallel[T any](items []T, f func(T) error) error {
	errs := make(chan error)
	for _, item := range items {
		item := item
		go func() { errs <- f(item) }()
	}
	for range items {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}

func errorUnread() {
	every(time.Second, func() {
		parallel([]int{1, 2, 3, 4, 5}, func(i int) error {
			time.Sleep(time.Duration(i) * 10 * time.Millisecond)
			if i == 2 {
				return errors.New("no")
			}
			return nil
		})
	})
}

func traced(f func()) func() { return func() { f() } }
func background(f func())    { go traced(f)() }
func auditOrder(c chan struct{}) {
	background(func() { <-c })
}

func helperChain() { every(450*time.Millisecond, func() { auditOrder(make(chan struct{})) }) }

func copyBytes(dst, src net.Conn) { io.Copy(dst, src) }

func forward(client, upstream net.Conn) {
	go copyBytes(upstream, client)
	go copyBytes(client, upstream)
}

func pair() (net.Conn, net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		panic(err)
	}
	b, err := l.Accept()
	if err != nil {
		panic(err)
	}
	return a, b
}

func forwarder() {
	every(600*time.Millisecond, func() {
		client, in := pair()
		out, upstream := pair()
		keep = append(keep, upstream)
		forward(in, out)
		client.Write([]byte("hello"))
		client.Close() // and the other direction is left
	})
}

func notify(url string) error {
	response, err := http.Post(url, "text/plain", nil)
	if err != nil {
		return err
	}
	if response.StatusCode >= 400 {
		return errors.New(response.Status)
	}
	return nil
}

func postNotClosed() {
	s := server(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(3 * time.Millisecond)
		w.Write(page)
	})
	every(350*time.Millisecond, func() { notify(s.URL) })
}

// --- healthy ---

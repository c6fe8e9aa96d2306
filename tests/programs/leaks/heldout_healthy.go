package main

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"
)

// The healthy look-alikes among the cases that registerHeldOut has.

func hubInUse() {
	h := &hub{subs: map[int]chan string{}}
	for i := 0; i < 40; i++ {
		h.subscribe()
	}
	every(500*time.Millisecond, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		for id, c := range h.subs {
			if rand.Intn(20) == 0 {
				delete(h.subs, id)
				close(c)
				continue
			}
			c <- "news"
		}
	})
	every(500*time.Millisecond, func() { h.subscribe(); h.subscribe() })
}

func sseHeartbeat() {
	s := server(func(w http.ResponseWriter, r *http.Request) {
		beat := time.NewTicker(5 * time.Second)
		defer beat.Stop()
		for {
			select {
			case <-beat.C:
				fmt.Fprintln(w, "beat")
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				return
			}
		}
	})
	for i := 0; i < 25; i++ {
		go readAll(http.DefaultClient, s.URL)
	}
}

func goodQuery(ctx context.Context, db *sql.DB) {
	rows, err := db.QueryContext(ctx, "select")
	if err != nil {
		return
	}
	defer rows.Close()
	for rows.Next() {
	}
}

func sqlInUse() {
	db := database(30 * time.Millisecond)
	db.SetMaxIdleConns(10)
	every(20*time.Millisecond, func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		go func() { defer cancel(); goodQuery(ctx, db) }()
	})
}

// sqlWaits asks for a little less than its few connections give.
func sqlWaits() {
	db := database(400 * time.Millisecond)
	db.SetMaxOpenConns(2)
	every(250*time.Millisecond, func() { go goodQuery(context.Background(), db) })
}

func childrenEnd() {
	every(500*time.Millisecond, func() { go exec.Command("sleep", "4").Run() })
}

func batchersStop() {
	every(400*time.Millisecond, func() {
		stop := make(chan struct{})
		go func() {
			flush := time.NewTicker(300 * time.Millisecond)
			defer flush.Stop()
			for {
				select {
				case <-flush.C:
				case <-stop:
					return
				}
			}
		}()
		time.AfterFunc(5*time.Second, func() { close(stop) })
	})
}

func retryGivesUp() {
	every(400*time.Millisecond, func() {
		n := 0
		go retry(func() error {
			if n++; n > 6 {
				return nil
			}
			return errors.New("not yet")
		})
	})
}

func flightLoad() {
	f := &flight{calls: map[string]chan struct{}{}}
	for i := 0; i < 30; i++ {
		key := fmt.Sprint(i % 5)
		every(50*time.Millisecond, func() { f.do(key, false) })
	}
}

// rollingReload replaces all watchers every few seconds.
func rollingReload() {
	var stop chan struct{}
	every(6*time.Second, func() {
		if stop != nil {
			close(stop)
		}
		stop = make(chan struct{})
		for i := 0; i < 12; i++ {
			mine, events := stop, make(chan int)
			go func() {
				select {
				case <-events:
				case <-mine:
				}
			}()
		}
	})
}

// plateau had its users in the first seconds and keeps them.
func plateau() {
	for i := 0; i < 60; i++ {
		in := make(chan string)
		keep = append(keep, in)
		go func() {
			for range in {
			}
		}()
	}
}

func quotaWaits() {
	tokens := make(chan struct{}, 1)
	every(time.Second, func() {
		select {
		case tokens <- struct{}{}:
		default:
		}
	})
	waiting := atomic.Int64{}
	every(200*time.Millisecond, func() {
		if waiting.Load() < 8 {
			waiting.Add(1)
			go func() { <-tokens; waiting.Add(-1) }()
		}
	})
}

func periodicReport() {
	every(8*time.Second, func() {
		var wg sync.WaitGroup
		for i := 0; i < 20; i++ {
			wg.Add(1)
			go func() { defer wg.Done(); time.Sleep(time.Duration(2000+rand.Intn(4000)) * time.Millisecond) }()
		}
		go wg.Wait()
	})
}

func fanOutFanIn() {
	every(100*time.Millisecond, func() {
		parallel([]int{1, 2, 3, 4}, func(i int) error {
			time.Sleep(time.Duration(i) * 5 * time.Millisecond)
			return nil
		})
	})
}

func forwarderInUse() {
	every(500*time.Millisecond, func() {
		client, in := pair()
		out, upstream := pair()
		go func() {
			copyBytes(out, in)
			out.Close()
		}()
		go func() {
			copyBytes(in, out)
			in.Close()
		}()
		go func() { // an echo
			io.Copy(upstream, upstream)
			upstream.Close()
		}()
		go func() {
			r := bufio.NewReader(client)
			for i := 0; i < 5; i++ {
				fmt.Fprintln(client, "ping")
				r.ReadString('\n')
				time.Sleep(time.Second)
			}
			client.Close()
		}()
	})
}

func onceBriefly() {
	every(2*time.Second, func() {
		l := &lazy{ready: make(chan struct{})}
		for i := 0; i < 10; i++ {
			go l.get()
		}
		time.AfterFunc(1500*time.Millisecond, func() { close(l.ready) })
	})
}

func janitors() {
	for i := 0; i < 10; i++ {
		sweep := time.NewTicker(time.Duration(20+i) * time.Second)
		done := make(chan struct{})
		keep = append(keep, done)
		go func() {
			for {
				select {
				case <-sweep.C:
				case <-done:
					return
				}
			}
		}()
	}
}

// rebalance has consumers of partitions that are stopped and begun anew from time to time.
func rebalance() {
	stops := map[int]chan struct{}{}
	i := 0
	every(700*time.Millisecond, func() {
		i++
		partition := i % 12
		if stop, ok := stops[partition]; ok {
			close(stop)
		}
		stop, messages := make(chan struct{}), make(chan int)
		stops[partition] = stop
		go func() {
			for {
				select {
				case <-messages:
				case <-stop:
					return
				}
			}
		}()
	})
}

func healthChecks() {
	s := server(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("ok")) })
	client := &http.Client{Timeout: 2 * time.Second}
	for i := 0; i < 10; i++ {
		every(time.Duration(1+i)*time.Second, func() { readAll(client, s.URL) })
	}
}

// rampSteady has ever more users for 20 s, each for 8 s, and then as many as go.
func rampSteady() {
	start := time.Now()
	every(100*time.Millisecond, func() {
		if rand.Float64() < time.Since(start).Seconds()/20 {
			leave := make(chan int)
			time.AfterFunc(8*time.Second, func() { close(leave) })
			go func() { <-leave }()
		}
	})
}

// drainedQueue has senders that wait until the consumer comes by.
func drainedQueue() {
	queue := make(chan int)
	every(300*time.Millisecond, func() { go func() { queue <- 1 }() })
	every(9*time.Second, func() {
		for {
			select {
			case <-queue:
			default:
				return
			}
		}
	})
}

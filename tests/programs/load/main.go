// Load does one kind of work as fast as it can, until it is told to stop, and says how much it did: what a watched program
// loses by being watched. It is told line by line on standard input what to do, and answers each line with one JSON
// object.
//
// Commands:
//
//	serve                an HTTP server on loopback that answers with a small page: its address
//	get ADDRESS N MS     N clients that ask it for MS milliseconds: requests, median and 99th percentile of their times
//	start pingpong       one goroutine hands a value to another and waits to get it back, over unbuffered channels
//	start spawn          goroutines that end at once, one after the other
//	stop                 ends that: operations done, and the CPU time and wall time from start to stop
//	done                 operations so far, without stopping
//	cpu                  the CPU time of the process so far
//	quit                 exits with status 0, as end of input does
//
// "load churn MS" starts goroutines for MS milliseconds instead, prints how many, and ends.
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"talk"
)

type answer = talk.Answer

func main() {
	if len(os.Args) == 3 && os.Args[1] == "churn" {
		ms, err := strconv.ParseUint(os.Args[2], 10, 32)
		if err != nil {
			panic(err)
		}
		fmt.Println(churn(time.Duration(ms) * time.Millisecond))
		return
	}
	talk.Obey(obey)
}

// How many goroutines it started, some at once and then some more every ten milliseconds. All of them have ended.
func churn(lifetime time.Duration) int {
	var wait sync.WaitGroup
	started := 0
	for end := time.Now().Add(lifetime); ; time.Sleep(10 * time.Millisecond) {
		for i := 0; i < 5; i++ {
			wait.Add(1)
			started++
			go func() {
				defer wait.Done()
				time.Sleep(time.Millisecond)
			}()
		}
		if !time.Now().Before(end) {
			wait.Wait()
			return started
		}
	}
}

func obey(command string, args []string) (answer, error) {
	switch {
	case command == "serve" && len(args) == 0:
		return serve()
	case command == "get" && len(args) == 3:
		return get(args[0], args[1], args[2])
	case command == "start" && len(args) == 1:
		return start(args[0])
	case command == "stop" && len(args) == 0:
		return stop()
	case command == "done" && len(args) == 0:
		return answer{"operations": atomic.LoadUint64(&operations)}, nil
	case command == "cpu" && len(args) == 0:
		return answer{"cpu_ns": cpu()}, nil
	}
	return nil, fmt.Errorf("unknown command %q with %d arguments", command, len(args))
}

func serve() (answer, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	page := make([]byte, 512)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write(page) })
	go http.Serve(listener, handler)
	return answer{"address": listener.Addr().String()}, nil
}

func get(address, clients, milliseconds string) (answer, error) {
	n, err := strconv.Atoi(clients)
	if err != nil {
		return nil, err
	}
	ms, err := strconv.Atoi(milliseconds)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: n}}
	end := time.Now().Add(time.Duration(ms) * time.Millisecond)
	var wait sync.WaitGroup
	times := make([][]time.Duration, n)
	failures := make([]error, n)
	for i := 0; i < n; i++ {
		wait.Add(1)
		go func(i int) {
			defer wait.Done()
			for time.Now().Before(end) && failures[i] == nil {
				begin := time.Now()
				failures[i] = ask(client, "http://"+address+"/")
				times[i] = append(times[i], time.Since(begin))
			}
		}(i)
	}
	wait.Wait()
	client.CloseIdleConnections()
	for _, err := range failures {
		if err != nil {
			return nil, err
		}
	}
	var all []time.Duration
	for _, some := range times {
		all = append(all, some...)
	}
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	if len(all) == 0 {
		return nil, errors.New("no request was answered")
	}
	return answer{"requests": len(all), "p50_ns": all[len(all)/2], "p99_ns": all[len(all)*99/100]}, nil
}

func ask(client *http.Client, url string) error {
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, response.Body)
	response.Body.Close()
	return err
}

// The work under way.
var (
	running    chan struct{} // closed to stop it; nil while there is none
	stopped    chan struct{} // closed once it has
	operations uint64        // done since start
	beganCPU   int64
	began      time.Time
)

func start(kind string) (answer, error) {
	work := map[string]func(){"pingpong": pingpong, "spawn": spawn}[kind]
	if work == nil || running != nil {
		return nil, fmt.Errorf("cannot start %q", kind)
	}
	atomic.StoreUint64(&operations, 0)
	running, stopped = make(chan struct{}), make(chan struct{})
	began, beganCPU = time.Now(), cpu()
	go func() {
		work()
		close(stopped)
	}()
	return answer{}, nil
}

func stop() (answer, error) {
	if running == nil {
		return nil, errors.New("nothing was started")
	}
	close(running)
	<-stopped
	running = nil
	return answer{
		"operations": atomic.LoadUint64(&operations),
		"cpu_ns":     cpu() - beganCPU,
		"wall_ns":    time.Since(began).Nanoseconds(),
	}, nil
}

func goesOn() bool {
	select {
	case <-running:
		return false
	default:
		return true
	}
}

func pingpong() {
	there, back := make(chan int), make(chan int)
	go func() {
		for value := range there {
			back <- value
		}
	}()
	for goesOn() {
		there <- 1
		<-back
		atomic.AddUint64(&operations, 1)
	}
	close(there)
}

func spawn() {
	var wait sync.WaitGroup
	for goesOn() {
		wait.Add(64)
		for i := 0; i < 64; i++ {
			go wait.Done()
		}
		wait.Wait()
		atomic.AddUint64(&operations, 64)
	}
}

func cpu() int64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return usage.Utime.Nano() + usage.Stime.Nano()
}

// Crowd has goroutines in every state there is, at known places, and writes the runtime's own dump of them, so that a
// dump made from outside can be held to it. It is told line by line on standard input what to do, and answers each
// line with one JSON object on standard output.
//
// Commands:
//
//	gather           starts the crowd: one or more goroutines for each state; answers once they all rest
//	many N DEPTH     N more goroutines, parked DEPTH calls deep
//	churn on|off     goroutines that are born and end as fast as they can
//	become PROGRAM   becomes another program (execve): there is no answer
//	unmap            unmaps the goroutines' own memory, and dies of it: there is no answer
//	spin on|off      a goroutine that never waits
//	dump FILE        the runtime's own dump (debug=2) into FILE, written by another goroutine once the main one rests
//	proto FILE       the same of the goroutine profile (debug=0)
//	profile LEVEL    the goroutine profile at that debug level, thrown away: how long it takes, and its longest pause
//	count            runtime.NumGoroutine()
//	collect          one garbage collection, which makes the runtime note since when goroutines wait
//	latency SECONDS  the longest delay of a ticking goroutine in that time
//	quit             exits with status 0, as end of input does
package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/pprof"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"talk"
)

type answer = talk.Answer

func main() { talk.Obey(obey) }

func obey(command string, args []string) (answer, error) {
	switch {
	case command == "gather" && len(args) == 0:
		gather()
		return count()
	case command == "many" && len(args) == 2:
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return nil, err
		}
		depth, err := strconv.Atoi(args[1])
		if err != nil {
			return nil, err
		}
		many(n, depth)
		return count()
	case command == "churn" && len(args) == 1:
		churn(args[0] == "on")
		return count()
	case command == "become" && len(args) == 1:
		return nil, syscall.Exec(args[0], args, nil)
	case command == "unmap" && len(args) == 0:
		unmap()
		return nil, fmt.Errorf("still there")
	case command == "spin" && len(args) == 1:
		spin(args[0] == "on")
		return count()
	case command == "dump" && len(args) == 1:
		return whenMainRests(args[0], dump)
	case command == "proto" && len(args) == 1:
		return whenMainRests(args[0], proto)
	case command == "profile" && len(args) == 1:
		level, err := strconv.Atoi(args[0])
		if err != nil {
			return nil, err
		}
		return profile(level)
	case command == "count" && len(args) == 0:
		return count()
	case command == "collect" && len(args) == 0:
		runtime.GC()
		return count()
	case command == "latency" && len(args) == 1:
		seconds, err := strconv.ParseFloat(args[0], 64)
		if err != nil {
			return nil, err
		}
		return answer{"worst_ns": worstDelay(func() { time.Sleep(time.Duration(seconds * 1e9)) })}, nil
	}
	return nil, fmt.Errorf("unknown command %q with %d arguments", command, len(args))
}

// unmap takes the heap away page by page, the stacks of all goroutines with it: the program ends where its own is hit.
func unmap() {
	const page, piece = 4096, 4 << 20
	first := uintptr(unsafe.Pointer(new([64]byte))) &^ (piece - 1)
	for at := first + piece; at >= first; at -= page {
		syscall.RawSyscall(syscall.SYS_MUNMAP, at, page, 0)
	}
}

func count() (answer, error) {
	return answer{"goroutines": runtime.NumGoroutine()}, nil
}

// whenMainRests has a file written by a goroutine of its own, when the main one is waiting for its next command: then
// the writer is the only goroutine that does anything. The file has its name only once it is whole.
func whenMainRests(file string, write func(io.Writer) error) (answer, error) {
	go writer(file, write)
	return answer{}, nil
}

func writer(file string, write func(io.Writer) error) {
	time.Sleep(50 * time.Millisecond)
	var out bytes.Buffer
	if err := write(&out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	unfinished := file + "~"
	if err := os.WriteFile(unfinished, out.Bytes(), 0o600); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	os.Rename(unfinished, file)
}

func dump(out io.Writer) error {
	for size := 1 << 20; ; size *= 2 {
		buffer := make([]byte, size)
		n := runtime.Stack(buffer, true)
		if n < size {
			_, err := out.Write(buffer[:n])
			return err
		}
	}
}

func proto(out io.Writer) error { return pprof.Lookup("goroutine").WriteTo(out, 0) }

type nowhere struct{ bytes int64 }

func (n *nowhere) Write(p []byte) (int, error) {
	n.bytes += int64(len(p))
	return len(p), nil
}

func profile(level int) (answer, error) {
	var out nowhere
	var err error
	start := time.Now()
	worst := worstDelay(func() {
		start = time.Now()
		err = pprof.Lookup("goroutine").WriteTo(&out, level)
	})
	return answer{"took_ns": time.Since(start).Nanoseconds(), "worst_ns": worst, "bytes": out.bytes}, err
}

// worstDelay is how much later than asked a goroutine on a thread of its own woke up at worst while f ran.
func worstDelay(f func()) int64 {
	const tick = 200 * time.Microsecond
	stop, worst := make(chan bool), make(chan int64)
	go func() {
		runtime.LockOSThread()
		longest := int64(0)
		for {
			select {
			case <-stop:
				worst <- longest
				return
			default:
			}
			before := time.Now()
			time.Sleep(tick)
			if late := time.Since(before) - tick; int64(late) > longest {
				longest = int64(late)
			}
		}
	}()
	time.Sleep(5 * tick)
	f()
	stop <- true
	return <-worst
}

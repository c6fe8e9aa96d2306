// Moved changes the memory that its own code is in, as programs do that want it in huge pages. It is told line by line on
// standard input what to do, and answers each line with one JSON object.
//
// With MOVED=early in its environment its code is in anonymous memory before main begins, and never was executed from the
// file after that.
//
// Commands:
//
//	move       the code is in anonymous memory from now on
//	return     the code is mapped from the file again
//	patch      writes over the code what the file has there
//	spawn N    N goroutines that end at once
//	quit       exits with status 0, as end of input does
package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"talk"
)

func init() {
	if os.Getenv("MOVED") == "early" {
		if err := move(); err != nil {
			panic(err)
		}
	}
}

func main() {
	talk.Obey(obey)
}

func obey(command string, args []string) (talk.Answer, error) {
	switch command {
	case "move":
		return talk.Answer{}, move()
	case "return":
		return talk.Answer{}, goBack()
	case "patch":
		return talk.Answer{}, patch()
	case "spawn":
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return nil, err
		}
		spawn(n)
		return talk.Answer{"births": n}, nil
	}
	return nil, fmt.Errorf("no such command: %s", command)
}

func spawn(n int) {
	var all sync.WaitGroup
	for i := 0; i < n; i++ {
		all.Add(1)
		go all.Done()
	}
	all.Wait()
}

// text is where the code is, in memory and in the file.
type text struct {
	start, size uintptr
	offset      int64
}

// code is filled in when the program begins: later the mapping has no name any more.
var code, findError = find()

func find() (text, error) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return text{}, err
	}
	for _, line := range strings.Split(string(maps), "\n") {
		var start, end uintptr
		var offset int64
		var permissions string
		n, _ := fmt.Sscanf(line, "%x-%x %s %x", &start, &end, &permissions, &offset)
		if n == 4 && permissions == "r-xp" && strings.Contains(line, "/") {
			return text{start, end - start, offset}, nil
		}
	}
	return text{}, fmt.Errorf("no code in %s", maps)
}

// read is the code as the file has it: what is in memory may have a tracer's breakpoints.
func (t text) read() ([]byte, error) {
	file, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	bytes := make([]byte, t.size)
	_, err = file.ReadAt(bytes, t.offset)
	if err != nil && err.Error() != "EOF" {
		return nil, err
	}
	return bytes, nil
}

func move() error {
	if findError != nil {
		return findError
	}
	bytes, err := code.read()
	if err != nil {
		return err
	}
	copied, err := call(syscall.SYS_MMAP, 0, code.size, syscall.PROT_READ|syscall.PROT_WRITE,
		syscall.MAP_PRIVATE|syscall.MAP_ANON, ^uintptr(0), 0)
	if err != nil {
		return err
	}
	copy(memory(copied, code.size), bytes)
	if _, err := call(syscall.SYS_MPROTECT, copied, code.size, syscall.PROT_READ|syscall.PROT_EXEC, 0, 0, 0); err != nil {
		return err
	}
	const mayMoveToFixed = 1 | 2 // MREMAP_MAYMOVE | MREMAP_FIXED
	_, err = call(syscall.SYS_MREMAP, copied, code.size, code.size, mayMoveToFixed, code.start, 0)
	return err
}

func goBack() error {
	file, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = call(syscall.SYS_MMAP, code.start, code.size, syscall.PROT_READ|syscall.PROT_EXEC,
		syscall.MAP_PRIVATE|syscall.MAP_FIXED, file.Fd(), uintptr(code.offset))
	return err
}

func patch() error {
	bytes, err := code.read()
	if err != nil {
		return err
	}
	all := uintptr(syscall.PROT_READ | syscall.PROT_WRITE | syscall.PROT_EXEC)
	if _, err := call(syscall.SYS_MPROTECT, code.start, code.size, all, 0, 0, 0); err != nil {
		return err
	}
	live := memory(code.start, code.size)
	for i, b := range bytes {
		if live[i] != b {
			live[i] = b
		}
	}
	_, err = call(syscall.SYS_MPROTECT, code.start, code.size, syscall.PROT_READ|syscall.PROT_EXEC, 0, 0, 0)
	return err
}

func call(number, a, b, c, d, e, f uintptr) (uintptr, error) {
	result, _, errno := syscall.RawSyscall6(number, a, b, c, d, e, f)
	if errno != 0 {
		return 0, errno
	}
	return result, nil
}

func memory(start, size uintptr) []byte {
	return unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&start))), size)
}

// Launch becomes another program, under a restriction:
//
//	launch memory BYTES PROGRAM ...   may lock no more than BYTES of memory, nor raise that (RLIMIT_MEMLOCK, no CAP_SYS_RESOURCE)
//	launch traced PROGRAM ...         is traced by launch, which stays, and must meet no breakpoint; it ends as the program does
//	launch seccomp PROGRAM ...        is killed at any system call that the Go runtime and its standard streams do not need
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"
)

func main() {
	// What is restricted is this thread: it is the one that becomes the program.
	runtime.LockOSThread()
	if err := launch(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "launch:", err)
		os.Exit(126)
	}
}

func launch(args []string) error {
	switch {
	case len(args) > 2 && args[0] == "memory":
		bytes, err := strconv.ParseUint(args[1], 10, 64)
		if err != nil {
			return err
		}
		if err := limitMemory(bytes); err != nil {
			return err
		}
		return become(args[2:])
	case len(args) > 1 && args[0] == "traced":
		return trace(args[1:])
	case len(args) > 1 && args[0] == "seccomp":
		if err := filter(); err != nil {
			return err
		}
		return become(args[1:])
	}
	return fmt.Errorf("it does not know %q", args)
}

func become(args []string) error {
	return syscall.Exec(args[0], args, os.Environ())
}

// Numbers of linux/prctl.h, linux/capability.h, asm-generic/resource.h.
const (
	prSetSeccomp    = 22
	prCapbsetDrop   = 24
	prSetNoNewPrivs = 38
	capSysResource  = 24
	rlimitMemlock   = 8
)

func limitMemory(bytes uint64) error {
	limit := syscall.Rlimit{Cur: bytes, Max: bytes}
	if err := syscall.Setrlimit(rlimitMemlock, &limit); err != nil {
		return err
	}
	return prctl(prCapbsetDrop, capSysResource)
}

// Numbers of linux/seccomp.h, linux/filter.h; the filter sees a struct seccomp_data: the number, the architecture, ...
const (
	filterMode  = 2
	retAllow    = 0x7fff0000
	retKill     = 0x80000000
	loadWord    = 0x20 // BPF_LD | BPF_W | BPF_ABS
	jumpIfEqual = 0x15 // BPF_JMP | BPF_JEQ | BPF_K
	ret         = 0x06 // BPF_RET | BPF_K
	number      = 0
	arch        = 4
)

type instruction struct {
	code     uint16
	yes, no  uint8
	constant uint32
}

func filter() error {
	program := []instruction{
		{loadWord, 0, 0, arch},
		{jumpIfEqual, 1, 0, auditArch},
		{ret, 0, 0, retKill},
		{loadWord, 0, 0, number},
	}
	for _, allowed := range needed {
		program = append(program, instruction{jumpIfEqual, 0, 1, allowed}, instruction{ret, 0, 0, retAllow})
	}
	program = append(program, instruction{ret, 0, 0, retKill})
	whole := struct {
		length  uint16
		program *instruction
	}{uint16(len(program)), &program[0]}
	if err := prctl(prSetNoNewPrivs, 1); err != nil {
		return err
	}
	err := prctl(prSetSeccomp, filterMode, uintptr(unsafe.Pointer(&whole)))
	runtime.KeepAlive(program)
	return err
}

func prctl(what uintptr, args ...uintptr) error {
	var all [4]uintptr
	copy(all[:], args)
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, what, all[0], all[1], all[2], all[3], 0)
	if errno != 0 {
		return fmt.Errorf("prctl(%d): %w", what, errno)
	}
	return nil
}

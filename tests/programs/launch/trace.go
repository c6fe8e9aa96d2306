package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// PTRACE_O_EXITKILL of linux/ptrace.h.
const exitKill = 1 << 20

// trace lets a program and all its threads run, as a debugger does that waits for something to happen.
func trace(args []string) error {
	program := exec.Command(args[0], args[1:]...)
	program.Stdin, program.Stdout, program.Stderr = os.Stdin, os.Stdout, os.Stderr
	program.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := program.Start(); err != nil {
		return err
	}
	pid := program.Process.Pid
	var status syscall.WaitStatus
	// It stops once it has become the program.
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil {
		return err
	}
	if err := syscall.PtraceSetOptions(pid, syscall.PTRACE_O_TRACECLONE|exitKill); err != nil {
		return err
	}
	for thread, signal := pid, 0; ; {
		// A thread that was killed meanwhile cannot be continued.
		if err := syscall.PtraceCont(thread, signal); err != nil && err != syscall.ESRCH {
			return err
		}
		for {
			var err error
			if thread, err = syscall.Wait4(-1, &status, syscall.WALL, nil); err != nil {
				return err
			}
			if status.Stopped() {
				break
			}
			if thread == pid && status.Exited() {
				os.Exit(status.ExitStatus())
			}
			if thread == pid && status.Signaled() {
				return fmt.Errorf("the program was ended by %v", status.Signal())
			}
		}
		switch stopped := status.StopSignal(); {
		case stopped == syscall.SIGTRAP && status.TrapCause() > 0:
			signal = 0 // a thread was made
		case stopped == syscall.SIGTRAP:
			return fmt.Errorf("thread %d met a breakpoint that is nobody's", thread)
		case stopped == syscall.SIGSTOP:
			signal = 0 // the thread that was made
		default:
			signal = int(stopped)
		}
	}
}

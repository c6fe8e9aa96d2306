package main

import "syscall"

// What the runtime calls of Go 1.19 to 1.27, a program that reads and writes its standard streams, and its start.
var needed = append([]uint32{
	syscall.SYS_READ, syscall.SYS_PREAD64, syscall.SYS_WRITE, syscall.SYS_CLOSE, syscall.SYS_FSTAT, syscall.SYS_LSEEK,
	syscall.SYS_MMAP, syscall.SYS_MPROTECT, syscall.SYS_MUNMAP, syscall.SYS_BRK, syscall.SYS_MADVISE, syscall.SYS_MINCORE,
	syscall.SYS_RT_SIGACTION, syscall.SYS_RT_SIGPROCMASK, syscall.SYS_RT_SIGRETURN, syscall.SYS_SIGALTSTACK,
	syscall.SYS_SCHED_YIELD, syscall.SYS_SCHED_GETAFFINITY, syscall.SYS_NANOSLEEP, syscall.SYS_CLOCK_GETTIME,
	syscall.SYS_GETPID, syscall.SYS_GETTID, syscall.SYS_TGKILL, syscall.SYS_TKILL,
	syscall.SYS_CLONE, syscall.SYS_EXECVE, syscall.SYS_EXIT, syscall.SYS_EXIT_GROUP, syscall.SYS_FUTEX,
	syscall.SYS_RESTART_SYSCALL, syscall.SYS_SET_TID_ADDRESS, syscall.SYS_FCNTL,
	syscall.SYS_OPENAT, syscall.SYS_READLINKAT, syscall.SYS_UNAME, syscall.SYS_PRCTL,
	syscall.SYS_EPOLL_CREATE1, syscall.SYS_EPOLL_CTL, syscall.SYS_EPOLL_PWAIT, syscall.SYS_PIPE2,
	syscall.SYS_EVENTFD2, syscall.SYS_PRLIMIT64, syscall.SYS_GETRLIMIT, syscall.SYS_GETRUSAGE, syscall.SYS_SETITIMER,
	syscall.SYS_TIMER_CREATE, syscall.SYS_TIMER_SETTIME, syscall.SYS_TIMER_DELETE,
	435, // clone3
}, neededHere...)

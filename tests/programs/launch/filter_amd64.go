package main

import "syscall"

const auditArch = 0xc000003e

// Beyond what every processor has under the same name.
var neededHere = []uint32{
	syscall.SYS_ARCH_PRCTL, syscall.SYS_NEWFSTATAT, syscall.SYS_EPOLL_WAIT,
	318, // getrandom
	334, // rseq
}

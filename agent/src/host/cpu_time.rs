//! CPU time, to the nanosecond and in one system call: a process's files in /proc count in hundredths of a second.

use std::mem::MaybeUninit;

/// The CPU time of all threads of `pid`, ended ones included, in ns. `None` where there is no such process.
#[must_use]
pub fn cpu_time_ns(pid: u32) -> Option<u64> {
    // A process's clock has its pid's complement above three bits, which here are 2: what the scheduler counted
    // (MAKE_PROCESS_CPUCLOCK and CPUCLOCK_SCHED of the kernel's include/linux/posix-timers.h).
    const SCHEDULER: i32 = 2;
    let pid = i32::try_from(pid).ok()?;
    read(!pid << 3 | SCHEDULER)
}

/// The CPU time of the calling thread, in ns.
#[must_use]
pub fn thread_cpu_time_ns() -> u64 {
    read(libc::CLOCK_THREAD_CPUTIME_ID).unwrap_or(0)
}

fn read(clock: libc::clockid_t) -> Option<u64> {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    #[allow(unsafe_code, reason = "no library offers the clock of another process")]
    // SAFETY: the kernel writes a whole timespec where it returns 0, and nothing otherwise.
    let time = unsafe {
        if libc::clock_gettime(clock, time.as_mut_ptr()) != 0 {
            return None;
        }
        time.assume_init()
    };
    Some(u64::try_from(time.tv_sec).ok()? * 1_000_000_000 + u64::try_from(time.tv_nsec).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_uses_what_its_threads_use() {
        let (before, thread) = (cpu_time_ns(std::process::id()).unwrap(), thread_cpu_time_ns());
        while thread_cpu_time_ns() < thread + 2_000_000 {}
        let used = cpu_time_ns(std::process::id()).unwrap() - before;
        assert!(used >= 2_000_000, "{used} ns");
    }

    #[test]
    fn nobody_has_no_time() {
        assert_eq!(cpu_time_ns(u32::MAX), None);
        assert_eq!(cpu_time_ns(4_194_305), None, "above the largest pid there is");
    }
}

//! The current state of a process's threads: registers and stack of those that run, sampled by the kernel's perf events
//! (`perf_event_open(2)`).
//!
//! A sample is taken in an interrupt, registers and stack at one instant; the thread goes on when it is over, after some
//! microseconds. Only threads that have a processor are sampled, and only for as long as a [`Sampling`] lives.
//!
//! Refuses what `perf` itself may not do here: without CAP_PERFMON, or with too little lockable memory, there are no
//! samples.

use std::{
    fs, io,
    time::{Duration, Instant},
};

use perf_event::{
    Builder, SampleFlag, Sampler,
    data::{Record, SampleRegsAbi},
    events::Software,
};

use super::{Identity, Proc};

/// Time on a processor between two samples of a thread.
const PERIOD_NS: u64 = 500_000;
/// Most of a stack that a sample holds: a record has 64 KiB at most. Go's stacks are mostly a few KiB.
const STACK_BYTES: u32 = 32 << 10;
/// Room for three samples of a thread; they are taken out more often than that.
const RING_BYTES: usize = 128 << 10;
const POLL: Duration = Duration::from_millis(1);
/// Threads sampled at one time; no more of them run than there are processors.
const MAX_THREADS: usize = 256;

/// Numbers of registers in samples (arch/x86/include/uapi/asm/perf_regs.h, arch/arm64/include/uapi/asm/perf_regs.h of the
/// kernel), ascending.
#[cfg(target_arch = "x86_64")]
mod registers {
    pub(super) const STACK_POINTER: u32 = 7;
    pub(super) const PC: u32 = 8;
    pub(super) const LINK: Option<u32> = None;
}
#[cfg(target_arch = "aarch64")]
mod registers {
    pub(super) const STACK_POINTER: u32 = 31;
    pub(super) const PC: u32 = 32;
    pub(super) const LINK: Option<u32> = Some(30);
}

/// One thread at one instant.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The instruction it was about to execute.
    pub pc: u64,
    /// Its stack pointer.
    pub stack_pointer: u64,
    /// The link register, on arm64.
    pub link: Option<u64>,
    /// Its stack from there up, as much as there was room for.
    pub stack: Vec<u8>,
}

/// The threads of one process.
#[derive(Clone, Debug)]
pub struct Threads {
    proc: Proc,
    identity: Identity,
}

/// Threads that are being sampled. Ends when dropped.
pub struct Sampling {
    samplers: Vec<Sampler>,
}

impl Threads {
    /// Those of a process.
    #[must_use]
    pub fn of(proc: Proc, identity: Identity) -> Self {
        Self { proc, identity }
    }

    /// Begins to sample the threads that run.
    ///
    /// # Errors
    ///
    /// The kernel's error where it lets no thread be sampled. One that ends meanwhile is passed over.
    pub fn sample(&self) -> io::Result<Sampling> {
        let mut samplers = Vec::new();
        let mut refused = None;
        for tid in self.running()?.into_iter().take(MAX_THREADS) {
            match sampler(tid) {
                Ok(sampler) => samplers.push(sampler),
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                Err(error) => refused = Some(error),
            }
        }
        match refused {
            Some(error) if samplers.is_empty() => Err(error),
            _ => Ok(Sampling { samplers }),
        }
    }

    fn running(&self) -> io::Result<Vec<libc::pid_t>> {
        let pid = self.identity.pid;
        let mut running = Vec::new();
        for thread in fs::read_dir(self.proc.path(pid, "task"))? {
            let Some(tid) = thread?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let runs = self.proc.thread_time(pid, tid).is_some_and(|time| !time.sleeps);
            running.extend(libc::pid_t::try_from(tid).ok().filter(|_| runs));
        }
        Ok(running)
    }
}

fn sampler(tid: libc::pid_t) -> io::Result<Sampler> {
    use registers::{LINK, PC, STACK_POINTER};
    let bit = |register: u32| 1u64 << register;
    let mut sampler = Builder::new(Software::CPU_CLOCK)
        .observe_pid(tid)
        .any_cpu()
        .sample_period(PERIOD_NS)
        .sample(SampleFlag::REGS_USER | SampleFlag::STACK_USER)
        .sample_regs_user(LINK.map_or(0, bit) | bit(STACK_POINTER) | bit(PC))
        .sample_stack_user(STACK_BYTES)
        .include_kernel()
        .build()?
        .sampled(RING_BYTES)?;
    sampler.enable()?;
    Ok(sampler)
}

impl Sampling {
    /// Hands over samples as they come, for no longer than `limit`, until `enough` says so.
    pub fn for_each(&mut self, limit: Duration, mut enough: impl FnMut(&Sample) -> bool) {
        let begin = Instant::now();
        while begin.elapsed() < limit && !self.samplers.is_empty() {
            for sampler in &mut self.samplers {
                while let Some(record) = sampler.next_record() {
                    let record = record.parse_record().ok();
                    if sample(record.as_ref()).is_some_and(|sample| enough(&sample)) {
                        return;
                    }
                }
            }
            std::thread::sleep(POLL);
        }
    }
}

fn sample(record: Option<&Record<'_>>) -> Option<Sample> {
    let Some(Record::Sample(record)) = record else { return None };
    let registers = record.regs_user().filter(|registers| registers.abi == SampleRegsAbi::ABI_64)?;
    let (link, rest) = match registers::LINK {
        Some(_) => registers.regs.split_first().map(|(link, rest)| (Some(*link), rest))?,
        None => (None, &*registers.regs),
    };
    let &[stack_pointer, pc] = rest else { return None };
    Some(Sample { pc, stack_pointer, link, stack: record.stack_user()?.to_vec() })
}

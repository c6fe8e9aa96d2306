//! CPU time that one hit of each program costs on this machine, measured on the agent's own code.
//!
//! The agent has three loops, one for each event, with an instruction like the one that is probed in Go programs. They run
//! untraced and traced in a thread of their own, some thousand rounds, some milliseconds in all, and use as much memory
//! between two hits as the nearest cache has, as a real program does. What a hit costs differs
//! between machines by more than ten times: on virtual ones a trap may go through the hypervisor.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    sync::mpsc::{Receiver, TryRecvError, channel},
    thread,
};

use parkranger_common::{
    counts::{Process, ProcessId},
    probe::{GOffsets, NO_BINARY, ProbeWord},
};

use super::{
    Kernel, KernelError,
    attach::Probe,
    calibration_loops::{self, LOOPS, Loop, probed},
    removal::Links,
};
use crate::{
    address::FileOffset,
    host::{Proc, thread_cpu_time_ns},
};

/// CPU time that one hit adds, in ns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HitCosts {
    /// A birth.
    pub birth_ns: f64,
    /// A park.
    pub park_ns: f64,
    /// An exit.
    pub exit_ns: f64,
}

impl Default for HitCosts {
    /// Before anything was measured: as on a virtual machine.
    fn default() -> Self {
        Self { birth_ns: 700.0, park_ns: 700.0, exit_ns: 700.0 }
    }
}

/// CPU time that a story adds, as parts of what counting a park costs, which is mostly the trap: by the benchmark `event_cost`, on a
/// virtual machine (amd64).
const RUN: f64 = 0.95;
const STORY_PARK: f64 = 0.28;
const STORY_EXIT: f64 = 0.53;
/// Births and exits with their callers told apart, over those that are only counted: by the benchmark `containers`, on a
/// virtual machine (amd64).
const CALLERS: f64 = 1.7;

impl HitCosts {
    /// So many births, parks and exits.
    #[must_use]
    pub fn of(self, births: f64, parks: f64, exits: f64) -> f64 {
        births * self.birth_ns + parks * self.park_ns + exits * self.exit_ns
    }

    /// The same where callers are told apart.
    #[must_use]
    pub fn with_callers(self) -> Self {
        Self { birth_ns: self.birth_ns * CALLERS, exit_ns: self.exit_ns * CALLERS, ..self }
    }

    /// A goroutine that gets to run, while a story is told.
    #[must_use]
    pub fn run_ns(self) -> f64 {
        self.park_ns * RUN
    }

    /// A park, in addition.
    #[must_use]
    pub fn story_park_ns(self) -> f64 {
        self.park_ns * STORY_PARK
    }

    /// An exit, in addition.
    #[must_use]
    pub fn story_exit_ns(self) -> f64 {
        self.park_ns * STORY_EXIT
    }
}

/// Probes in the agent's own loops, which wait to be measured. Dropping it takes them off.
pub struct OwnProbes {
    id: ProcessId,
    file: File,
    probes: Vec<Probe>,
    links: Links,
}

/// A measurement under way.
pub struct Calibration {
    answer: Receiver<HitCosts>,
    id: ProcessId,
}

/// For messages.
const ITSELF: &str = "parkranger itself";
/// Rounds of one loop for one sample, samples per loop.
const ROUNDS: u64 = 200;
const SAMPLES: usize = 7;
/// Memory used between two hits: a first-level cache, and the distance of the bytes that are used.
const CACHE_BYTES: usize = 32 << 10;
const CACHE_LINE_BYTES: usize = 64;
/// Factor for the aftermath of a hit: the program's own code is slower then, for the kernel was in the caches and in the branch predictor. Parks of a Go program
/// that does nothing else cost 1.18 times what this loop says (amd64, virtual machine).
const WITH_AFTERMATH: f64 = 1.18;
/// A hit costs the kernel at least an exception, and two ways between user and kernel.
const LEAST_NS: f64 = 100.0;

impl Kernel {
    /// Puts probes into the agent's own loops. The first probes of a machine wait for a grace period of RCU, so this is done
    /// while there is other work.
    ///
    /// # Errors
    ///
    /// [`KernelError::Attach`] where the agent's own code cannot be probed, [`KernelError::Map`].
    pub fn probe_itself(&mut self, proc: &Proc, now_ns: u64) -> Result<OwnProbes, KernelError> {
        let own = std::process::id();
        let code = proc.code_mappings(own).map_err(|why| error(why.to_string()))?;
        let offsets = GOffsets { gopc: 0, startpc: 16, waitreason: 0, sched_bp: 0, sched_pc: 0 };
        let word = ProbeWord::for_binary(NO_BINARY, offsets)
            .ok_or_else(|| error("no word for it".to_owned()))?
            .park_in_registers(true);
        let mut probes = Vec::new();
        for (event, _) in LOOPS {
            let address = probed(event);
            let mapping = code.iter().find(|mapping| mapping.start.0 <= address && address < mapping.end.0);
            let mapping = mapping.ok_or_else(|| error("its code is not mapped from a file".to_owned()))?;
            let offset = FileOffset(address - mapping.start.0 + mapping.offset.0);
            probes.push(Probe { event, offset, word: word.event(event) });
        }
        let file = File::open(proc.root().join("self/exe")).map_err(|why| error(why.to_string()))?;
        let id = self.list(Process { id: ProcessId::new(own, now_ns), word: word.0 })?;
        let id = id.ok_or_else(|| error("there is no room in the map of processes".to_owned()))?;
        let attachment = self.attach(&file, ITSELF, &probes)?;
        let links = self.take(attachment);
        Ok(OwnProbes { id, file, probes, links })
    }

    /// The costs, once they are measured. An error ends the measurement too.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`]; [`KernelError::Attach`] where the measurement broke off.
    pub fn calibrated(&mut self, calibration: &Calibration) -> Option<Result<HitCosts, KernelError>> {
        let answer = match calibration.answer.try_recv() {
            Ok(answer) => Ok(answer),
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => {
                Err(KernelError::Attach { path: ITSELF.to_owned(), why: "the measurement broke off".to_owned() })
            }
        };
        let cleared = self.unwatch(calibration.id).and_then(|()| self.remove_counters(&[calibration.id]));
        Some(cleared.and(answer))
    }
}

impl OwnProbes {
    /// Begins to measure. Needs [`Kernel::calibrated`] until that has an answer.
    ///
    /// # Errors
    ///
    /// [`KernelError::Attach`] where there is no thread for it.
    pub fn measure(self) -> Result<Calibration, KernelError> {
        let (sender, answer) = channel();
        let id = self.id;
        let measure = move || {
            // Nobody may be listening any more.
            let _ = sender.send(self.costs());
        };
        thread::Builder::new().name("calibration".to_owned()).spawn(measure).map_err(|why| error(why.to_string()))?;
        Ok(Calibration { answer, id })
    }

    /// One after the other, so that the machine is the same for both.
    fn costs(self) -> HitCosts {
        let Self { file, probes, links, .. } = self;
        let traced = LOOPS.map(|(_, rounds)| sample(rounds).median);
        drop(links);
        let others_probe_it = || {
            let in_file = |probe: &Probe| {
                let mut code = calibration_loops::Code::default();
                file.read_exact_at(&mut code, probe.offset.0).map(|()| code)
            };
            probes.iter().any(|probe| in_file(probe).ok() != Some(calibration_loops::code(probe.event)))
        };
        // Another agent may be calibrating right now, whose probes are in our loops as well. Then a hit is taken to be all that
        // a round costs: rather a little more than it is than nothing.
        let probed_before = others_probe_it();
        let untraced = LOOPS.map(|(_, rounds)| sample(rounds).quickest);
        let untraced = if probed_before || others_probe_it() { [0.0; 3] } else { untraced };
        let [birth_ns, park_ns, exit_ns] =
            [0, 1, 2].map(|event: usize| ((traced[event] - untraced[event]) * WITH_AFTERMATH).max(LEAST_NS));
        HitCosts { birth_ns, park_ns, exit_ns }
    }
}

fn error(why: String) -> KernelError {
    KernelError::Attach { path: ITSELF.to_owned(), why }
}

/// CPU time of one round, in ns. Where a hypervisor takes the processor away, that counts as the thread's own time: the
/// quickest of several samples is what the loop takes by itself, and against that the median is rather too much than too
/// little for what a hit adds.
struct Sample {
    quickest: f64,
    median: f64,
}

fn sample(rounds: Loop) -> Sample {
    let goroutine = [0; 8];
    let mut memory = vec![0u8; CACHE_BYTES];
    let mut run = |times: u64| {
        for _ in 0..times {
            rounds(1, &goroutine);
            for byte in memory.iter_mut().step_by(CACHE_LINE_BYTES) {
                *byte = std::hint::black_box(byte.wrapping_add(1));
            }
        }
    };
    // The first hits find no entry in the maps.
    run(ROUNDS / 10);
    let mut samples: Vec<u64> = (0..SAMPLES)
        .map(|_| {
            let begin = thread_cpu_time_ns();
            run(ROUNDS);
            thread_cpu_time_ns() - begin
        })
        .collect();
    samples.sort_unstable();
    let nth = |number: usize| samples.get(number).map_or(0.0, |time| *time as f64 / ROUNDS as f64);
    Sample { quickest: nth(0), median: nth(SAMPLES / 2) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_end_and_take_their_time() {
        for (event, rounds) in LOOPS {
            let Sample { quickest, median } = sample(rounds);
            assert!(quickest > 0.0 && quickest <= median, "{}: {quickest} ns, {median} ns", event.name());
            assert_ne!(probed(event), 0);
        }
    }
}

//! Reads what runtimes count themselves: goroutines made and there, of every process, with every snapshot.
//!
//! A process can make a read of its memory hang for ever (userfaultfd, FUSE), so a thread reads, and is waited for only so
//! long. One that hangs is left behind with its process, which is not asked again; another thread takes over.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use parkranger_common::counts::ProcessId;
use tracing::{debug, info};

use super::{Watchable, shared::Watched};
use crate::{
    address::{Bias, RuntimeAddr},
    census::Runtime,
    host::{Identity, Proc, ProcessMemory},
    program::GoroutineTotals,
};

/// Time that a snapshot waits for all processes together.
const PATIENCE: Duration = Duration::from_millis(200);
/// Readings that fail in a row before a process is not asked any more.
const MOST_FAILURES: u32 = 20;

/// One process to be read.
pub(super) struct Request {
    id: ProcessId,
    identity: Identity,
    bias: Bias,
    binary: Arc<Watchable>,
}

impl Request {
    pub(super) fn of(id: ProcessId, process: &Watched, binary: Arc<Watchable>) -> (ProcessId, Self) {
        (id, Self { id, identity: process.identity, bias: process.bias, binary })
    }
}

type Answer = (ProcessId, Option<GoroutineTotals>);
type Thread<R> = (Sender<Vec<(ProcessId, R)>>, Receiver<Answer>);

/// Reads one process, as `R` says. `None` where it has no counts, or cannot be read now.
pub(super) type Read<R> = Box<dyn FnMut(&R) -> Option<GoroutineTotals> + Send>;

/// Asks the thread that reads.
pub(super) struct Totals<R> {
    reader: Box<dyn Fn() -> Read<R> + Send>,
    thread: Option<Thread<R>>,
    /// Processes that are not asked any more, and readings that failed in a row.
    failures: HashMap<ProcessId, u32>,
}

impl<R: Send + 'static> Totals<R> {
    /// `reader` makes what reads, for a thread of its own.
    pub(super) fn new(reader: impl Fn() -> Read<R> + Send + 'static) -> Self {
        Self { reader: Box::new(reader), thread: None, failures: HashMap::new() }
    }

    /// Reads these processes. Those that do not answer are missing.
    pub(super) fn read(&mut self, requests: Vec<(ProcessId, R)>) -> Vec<(ProcessId, GoroutineTotals)> {
        let there: HashSet<ProcessId> = requests.iter().map(|(id, _)| *id).collect();
        self.failures.retain(|id, _| there.contains(id));
        let asked = |(id, _): &(ProcessId, R)| self.failures.get(id).is_none_or(|failed| *failed < MOST_FAILURES);
        let requests: Vec<(ProcessId, R)> = requests.into_iter().filter(asked).collect();
        let order: Vec<ProcessId> = requests.iter().map(|(id, _)| *id).collect();
        if order.is_empty() {
            return Vec::new();
        }
        let Some((ask, answers)) = self.thread() else { return Vec::new() };
        let deadline = Instant::now() + PATIENCE;
        let mut read = Vec::new();
        let sent = ask.send(requests).is_ok();
        let mut failed = Vec::new();
        let mut position = 0;
        while sent && position < order.len() {
            match answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((id, totals)) => {
                    position += 1;
                    match totals {
                        Some(totals) => read.push((id, totals)),
                        None => failed.push(id),
                    }
                }
                Err(_) => break,
            }
        }
        for id in failed {
            *self.failures.entry(id).or_default() += 1;
        }
        for (id, _) in &read {
            self.failures.remove(id);
        }
        if let Some(id) = order.get(position) {
            info!("process {}: its memory does not answer, and is not asked for totals again", id.tgid());
            self.failures.insert(*id, MOST_FAILURES);
            // Left behind, by intent.
            self.thread = None;
        }
        read
    }

    fn thread(&mut self) -> Option<&Thread<R>> {
        if self.thread.is_none() {
            let (ask, asked) = channel::<Vec<(ProcessId, R)>>();
            let (answer, answers) = channel();
            let mut read = (self.reader)();
            let run = move || {
                for (id, request) in asked.into_iter().flatten() {
                    // Nobody listens to one that was left behind.
                    if answer.send((id, read(&request))).is_err() {
                        return;
                    }
                }
            };
            match thread::Builder::new().name("totals".to_owned()).spawn(run) {
                Ok(_) => self.thread = Some((ask, answers)),
                Err(error) => debug!("no thread for totals: {error}"),
            }
        }
        self.thread.as_ref()
    }
}

/// Reads the memory of processes.
pub(super) fn from_memory(proc: Proc) -> Read<Request> {
    // Where each process has the number of its goroutine structs.
    let mut known: HashMap<ProcessId, RuntimeAddr> = HashMap::new();
    Box::new(move |request: &Request| {
        // Worked out by another thread: it takes a while.
        let places = request.binary.number_places()?;
        let binary = &request.binary.go.binary;
        let witness = request.bias.to_runtime(binary.function_table_address());
        let memory = ProcessMemory::open(&proc, request.identity, witness).ok()?;
        let structs = match known.get(&request.id) {
            Some(structs) => *structs,
            None => {
                let layout = request.binary.go.layout.clone();
                let runtime = Runtime::find(&memory, Arc::clone(binary), request.bias, layout).ok()?;
                if known.len() > 4096 {
                    known.clear();
                }
                *known.entry(request.id).or_insert(runtime.struct_count_address())
            }
        };
        places.read_goroutine_totals(&memory, request.bias, structs).ok()?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANGS: u64 = 99;
    const FAILS: u64 = 50;

    fn totals() -> Totals<u64> {
        Totals::new(|| {
            Box::new(|made: &u64| match *made {
                HANGS => loop {
                    thread::park();
                },
                FAILS => None,
                made => Some(GoroutineTotals { made, users: 1 }),
            })
        })
    }

    fn read(totals: &mut Totals<u64>, processes: &[u64]) -> Vec<u64> {
        let requests = processes.iter().map(|number| (ProcessId(*number), *number)).collect();
        totals.read(requests).into_iter().map(|(_, totals)| totals.made).collect()
    }

    #[test]
    fn a_process_that_hangs_costs_one_wait_and_nobody_else() {
        let mut totals = totals();
        assert_eq!(read(&mut totals, &[1, 2]), [1, 2]);
        let begin = Instant::now();
        assert_eq!(read(&mut totals, &[1, HANGS, 3]), [1], "those after it are read the next time");
        assert!(begin.elapsed() >= PATIENCE);
        let begin = Instant::now();
        for _ in 0..20 {
            assert_eq!(read(&mut totals, &[1, HANGS, 3]), [1, 3]);
        }
        assert!(begin.elapsed() < PATIENCE, "it is not asked again");
    }

    #[test]
    fn what_cannot_be_read_is_asked_some_more_times() {
        let mut totals = totals();
        for _ in 0..=MOST_FAILURES {
            assert_eq!(read(&mut totals, &[FAILS, 2]), [2]);
        }
        assert_eq!(totals.failures[&ProcessId(FAILS)], MOST_FAILURES);
        assert_eq!(read(&mut totals, &[2]), [2]);
        assert!(totals.failures.is_empty(), "it is gone");
    }
}

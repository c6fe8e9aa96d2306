//! The thread that reads what runtimes say of themselves, once per snapshot, and where processes belong.
//!
//! A process can make a read of its memory hang for ever (userfaultfd, FUSE): the thread that hangs is left to itself,
//! another takes its place, and that process is not asked again.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use parkranger_common::counts::ProcessId;
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::{debug, info};

use super::state::State;
use crate::{
    address::{Bias, RuntimeAddr},
    census::CensusError,
    go_binary::GoBinary,
    host::{Identity, Place, Proc, ProcessMemory},
    program::Numbers,
    runtime::NumberPlaces,
    snapshot::{Contexts, ProcessContext, Snapshot},
};

/// For a few words of memory.
const READ_WITHIN: Duration = Duration::from_millis(500);
/// For understanding a binary.
const UNDERSTAND_WITHIN: Duration = Duration::from_secs(10);

/// Where the numbers of a process are.
#[derive(Clone)]
struct Source {
    identity: Identity,
    bias: Bias,
    witness: RuntimeAddr,
    go: Arc<GoBinary>,
}

/// Begins to read.
pub(super) fn start(state: Arc<State>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut snapshots = state.snapshots();
        let mut reader = Reader { state, known: HashMap::new(), worker: None };
        while snapshots.changed().await.is_ok() {
            let Some(snapshot) = snapshots.borrow_and_update().clone() else { continue };
            let read = spawn_blocking(move || {
                reader.read(&snapshot);
                reader
            });
            match read.await {
                Ok(same) => reader = same,
                Err(error) => {
                    info!("the runtimes' own numbers are not read any more: {error}");
                    return;
                }
            }
        }
    })
}

type Job = Box<dyn FnOnce() + Send>;

struct Reader {
    state: Arc<State>,
    known: HashMap<ProcessId, Known>,
    worker: Option<mpsc::Sender<Job>>,
}

/// What is worked out once for a process.
struct Known {
    place: Place,
    /// `None` where its runtime is not asked, or not again.
    source: Option<Source>,
}

impl Reader {
    fn read(&mut self, snapshot: &Snapshot) {
        let mut all = Contexts::new();
        let mut known = HashMap::new();
        for process in snapshot.processes.iter().filter(|process| !process.ended && !process.brief) {
            let mut one = self.known.remove(&process.id).unwrap_or_else(|| Known {
                place: place(&self.state.proc, process.pid),
                source: self.source(process.pid, process.start_time),
            });
            let mut facts = ProcessContext { place: one.place.clone(), numbers: Numbers::default() };
            match one.source.clone().map(|source| self.numbers(source)) {
                Some(Ok(numbers)) => facts.numbers = numbers,
                Some(Err(error)) => {
                    debug!("process {}: its runtime is not asked again: {error}", process.pid);
                    one.source = None;
                }
                None => {}
            }
            all.insert(process.id, facts);
            known.insert(process.id, one);
        }
        self.known = known;
        self.state.set_facts(all);
    }

    fn source(&mut self, pid: u32, start_time: u64) -> Option<Source> {
        let state = Arc::clone(&self.state);
        let find = move || -> Result<Source, CensusError> {
            let subject = state.subjects.subject(pid)?;
            let go = Arc::clone(subject.go_binary());
            let witness = subject.bias().to_runtime(go.binary.function_table_address());
            // Here, where it may take a while.
            go.number_places();
            Ok(Source { identity: subject.identity(), bias: subject.bias(), witness, go })
        };
        let found = self.within(UNDERSTAND_WITHIN, find).and_then(|found| found.map_err(io::Error::other));
        match found {
            Ok(source) => Some(source).filter(|source| {
                source.identity.start_time == start_time && *source.go.number_places() != NumberPlaces::default()
            }),
            Err(error) => {
                debug!("process {pid}: its runtime is not asked: {error}");
                None
            }
        }
    }

    fn numbers(&mut self, source: Source) -> io::Result<Numbers> {
        let read = move || {
            let memory = ProcessMemory::open(&Proc::default(), source.identity, source.witness)?;
            source.go.number_places().read(&memory, source.bias)
        };
        self.within(READ_WITHIN, read)?.map_err(io::Error::other)
    }

    /// Has something done by a thread that may never come back.
    fn within<T: Send + 'static>(
        &mut self,
        limit: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (answer, answered) = mpsc::channel();
        let job: Job = Box::new(move || {
            // Nobody listens any more after the time limit.
            let _ = answer.send(job());
        });
        let worker = match &self.worker {
            Some(worker) => worker,
            None => self.worker.insert(worker()?),
        };
        let sent = worker.send(job).map_err(|_| io::Error::other("the thread is gone"));
        let done =
            sent.and_then(|()| answered.recv_timeout(limit).map_err(|_| io::Error::from(io::ErrorKind::TimedOut)));
        if done.is_err() {
            self.worker = None;
        }
        done
    }
}

/// Where a process belongs; nowhere, where that cannot be read.
fn place(proc: &Proc, pid: u32) -> Place {
    proc.cgroup(pid).map_or_else(|_| Place::default(), |cgroup| cgroup.place())
}

fn worker() -> io::Result<mpsc::Sender<Job>> {
    let (jobs, asked) = mpsc::channel::<Job>();
    // Not joined, by intent.
    thread::Builder::new().name("numbers".to_owned()).spawn(move || asked.into_iter().for_each(|job| job()))?;
    Ok(jobs)
}

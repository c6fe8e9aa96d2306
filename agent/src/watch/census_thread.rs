//! The thread that reads the memory of one process for one audit: first its goroutines, then the stocks of goids that
//! are asked for.
//!
//! A process can make a read of its memory hang for ever (userfaultfd, FUSE). Nobody waits for this thread: whoever asked
//! goes on, and the thread ends with the agent at the latest.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, TryRecvError, channel},
    },
    thread,
    time::Instant,
};

use tracing::debug;

use super::{
    Watchable,
    code::{Instruction, has_breakpoint},
    shared::{CensusInProgress, Watched},
    stacks::StackBytes,
    waiting::States,
};
use crate::{
    address::{Bias, RuntimeAddr},
    binary::bytes::u64_at,
    census::{CensusError, Detail, Runtime},
    host::{Identity, Memory as _, Proc, ProcessMemory},
    ledger::Site,
};

/// `goidcache` and `goidcacheend` of processors.
pub(super) type Stocks = HashMap<RuntimeAddr, (u64, u64)>;

/// Result of a census.
pub(super) struct Findings {
    /// Goid and site.
    pub(super) goroutines: Vec<(u64, Site)>,
    /// Sites of the runtime's own goroutines.
    pub(super) system: BTreeSet<Site>,
    /// True where no struct was left out.
    pub(super) complete: bool,
    /// Memory of their stacks.
    pub(super) stacks: StackBytes,
    /// State of the goroutines; `None` in tests.
    pub(super) states: Option<States>,
    /// Probes without a breakpoint in the process's code.
    pub(super) breakpoints_missing: u64,
}

/// The other end of the thread.
pub(super) struct CensusThread {
    census: Receiver<Result<Findings, CensusError>>,
    ask: Sender<Vec<RuntimeAddr>>,
    stocks: Receiver<Stocks>,
}

impl CensusThread {
    /// Begins to read. `probed` are the instructions that must have a breakpoint. `None` where there can be no more threads.
    pub(super) fn start(
        proc: &Proc,
        process: &Watched,
        binary: &Arc<Watchable>,
        probed: Vec<Instruction>,
    ) -> Option<Self> {
        let (census_sender, census) = channel();
        let (ask, asked) = channel();
        let (stocks_sender, stocks) = channel();
        let job = Job {
            proc: proc.clone(),
            identity: process.identity,
            bias: process.bias,
            binary: Arc::clone(binary),
            goidcache: process.goids.goidcache,
            probed,
        };
        let started = thread::Builder::new()
            .name("census".to_owned())
            .spawn(move || job.run(&census_sender, &asked, &stocks_sender));
        match started {
            // Not joined, by intent.
            Ok(_) => Some(Self { census, ask, stocks }),
            Err(error) => {
                debug!("no thread for a census: {error}");
                None
            }
        }
    }
}

impl CensusInProgress for CensusThread {
    fn census(&self) -> Result<Result<Findings, CensusError>, TryRecvError> {
        self.census.try_recv()
    }

    fn ask(&self, processors: Vec<RuntimeAddr>) -> bool {
        self.ask.send(processors).is_ok()
    }

    fn stocks(&self) -> Result<Stocks, TryRecvError> {
        self.stocks.try_recv()
    }
}

struct Job {
    proc: Proc,
    identity: Identity,
    bias: Bias,
    binary: Arc<Watchable>,
    goidcache: u64,
    probed: Vec<Instruction>,
}

impl Job {
    fn run(
        self,
        census: &Sender<Result<Findings, CensusError>>,
        asked: &Receiver<Vec<RuntimeAddr>>,
        stocks: &Sender<Stocks>,
    ) {
        let witness = self.bias.to_runtime(self.binary.go.binary.function_table_address());
        let memory = match ProcessMemory::open(&self.proc, self.identity, witness) {
            Ok(memory) => memory,
            Err(error) => {
                let _ = census.send(Err(error.into()));
                return;
            }
        };
        // Nobody may be listening any more, here and below.
        if census.send(self.goroutines(&memory)).is_err() {
            return;
        }
        while let Ok(processors) = asked.recv() {
            let read = processors.into_iter().filter_map(|p| {
                let mut words = [0; 16];
                memory.read(p.checked_add(self.goidcache)?, &mut words).ok()?;
                Some((p, (u64_at(&words, 0)?, u64_at(&words, 8)?)))
            });
            if stocks.send(read.collect()).is_err() {
                return;
            }
        }
    }

    fn goroutines(&self, memory: &ProcessMemory) -> Result<Findings, CensusError> {
        let (binary, layout) = (Arc::clone(&self.binary.go.binary), self.binary.go.layout.clone());
        let runtime = Runtime::find(memory, binary, self.bias, layout)?;
        let census = runtime.census(memory, Detail::default())?;
        let goroutines = census.goroutines.iter();
        let mut breakpoints_missing = 0;
        for instruction in &self.probed {
            if !has_breakpoint(memory, &self.binary.set.file, *instruction)? {
                breakpoints_missing += 1;
            }
        }
        Ok(Findings {
            breakpoints_missing,
            system: census
                .goroutines
                .iter()
                .filter(|goroutine| census.is_system(goroutine))
                .map(|goroutine| census.origin(goroutine).into())
                .collect(),
            goroutines: goroutines.map(|goroutine| (goroutine.goid, census.origin(goroutine).into())).collect(),
            complete: census.unsettled.is_complete(),
            stacks: StackBytes::of(&census),
            states: Some(States::of(&census, Instant::now())),
        })
    }
}

//! Records out of the ring buffers.
//!
//! Processes and streams have a ring buffer each. That of the streams is read by a thread of its own while events are told
//! one by one: a busy process fills it in some tens of milliseconds, and whoever asks for records may take longer to come
//! back. The thread sleeps when nothing is told.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use parkranger_common::record::{Life, ProcessRecord, RecordError, SiteSeen, StreamRecord};
use tracing::warn;

/// Time between two looks of the reader thread at the ring buffer. The buffer is never waited on: a wake-up would cost
/// the target more than everything else together.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Births and exits that wait for whoever asks for them, at most (24 MB). Beyond that they stay in the ring buffer, and
/// when that is full, events are missing from the stream and the audit is repeated.
const MOST_LIVES: usize = 1 << 18;
/// Creation stacks that wait, at most (14 MB).
const MOST_SITES: usize = 1 << 16;

/// Everything that was told since it was asked for last.
#[derive(Debug, Default)]
pub struct Records {
    /// New processes, and execve.
    pub processes: Vec<ProcessRecord>,
    /// Creation stacks of sites. Those of a process come after its record in `processes`.
    pub sites: Vec<SiteSeen>,
    /// Births and exits of the audited process, in order.
    pub lives: Vec<Life>,
}

/// Both ring buffers. Dropping it ends the reader thread.
pub(super) struct Rings {
    processes: RingBuf<MapData>,
    stream: Arc<Stream>,
    reader: Option<JoinHandle<()>>,
}

/// The stream's ring buffer, shared with the reader thread.
struct Stream {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    ring: RingBuf<MapData>,
    waiting: Waiting,
    activity: Activity,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Activity {
    /// Nothing is told one by one; whoever asks for records reads the ring buffer.
    Idle,
    /// The reader thread looks every [`LOOK_EVERY`].
    Streaming,
    /// The reader thread is to end.
    Ending,
}

/// Records that nobody has asked for yet.
#[derive(Default)]
struct Waiting {
    sites: Vec<SiteSeen>,
    lives: Vec<Life>,
}

impl Waiting {
    fn has_room(&self) -> bool {
        self.lives.len() < MOST_LIVES && self.sites.len() < MOST_SITES
    }

    fn take_in(&mut self, parsed: Result<StreamRecord, RecordError>) {
        match parsed {
            Ok(StreamRecord::SiteSeen(site)) => self.sites.push(site),
            Ok(StreamRecord::Life(life)) => self.lives.push(life),
            Err(error) => complain(error),
        }
    }
}

/// A record that cannot be read is written by other eBPF programs than this agent's: nothing that goes on.
fn complain(error: RecordError) {
    warn!("a record of the eBPF programs is passed over: {error}");
}

impl Stream {
    /// A thread that panicked left nothing half done: records are moved one by one.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, activity: Activity) {
        self.lock().activity = activity;
        self.changed.notify_all();
    }

    /// The reader thread.
    fn read(&self) {
        let mut state = self.lock();
        loop {
            let timed = match state.activity {
                Activity::Ending => return,
                Activity::Idle => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                Activity::Streaming => {
                    state.take_in();
                    self.changed.wait_timeout(state, LOOK_EVERY)
                }
            };
            state = timed.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl State {
    /// Moves records from the ring buffer to those that wait, as long as there is room.
    fn take_in(&mut self) {
        while self.waiting.has_room() {
            let Some(item) = self.ring.next() else { return };
            self.waiting.take_in(StreamRecord::parse(&item));
        }
    }
}

impl Rings {
    /// Takes both ring buffers, and starts the reader thread.
    ///
    /// # Errors
    ///
    /// The operating system's, where there can be no more threads.
    pub(super) fn new(processes: RingBuf<MapData>, stream: RingBuf<MapData>) -> io::Result<Self> {
        let state = State { ring: stream, waiting: Waiting::default(), activity: Activity::Idle };
        let stream = Arc::new(Stream { state: Mutex::new(state), changed: Condvar::new() });
        let shared = Arc::clone(&stream);
        let reader = thread::Builder::new().name("stream".to_owned()).spawn(move || shared.read())?;
        Ok(Self { processes, stream, reader: Some(reader) })
    }

    /// Events are told one by one from now on, or no longer.
    pub(super) fn set_streaming(&self, streaming: bool) {
        self.stream.set(if streaming { Activity::Streaming } else { Activity::Idle });
    }

    /// Everything told so far. The stream comes first: a site's process is then in the process ring already.
    pub(super) fn take(&mut self) -> Records {
        let Waiting { sites, lives } = {
            let mut state = self.stream.lock();
            state.take_in();
            std::mem::take(&mut state.waiting)
        };
        let mut processes = Vec::new();
        while let Some(item) = self.processes.next() {
            match ProcessRecord::parse(&item) {
                Ok(record) => processes.push(record),
                Err(error) => complain(error),
            }
        }
        Records { processes, sites, lives }
    }
}

impl Drop for Rings {
    fn drop(&mut self) {
        self.stream.set(Activity::Ending);
        if let Some(reader) = self.reader.take() {
            // It holds nothing but the ring buffer.
            let _ = reader.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use parkranger_common::{
        counts::{ProcessId, SiteKey},
        record::{Exit, MAX_STACK, VERSION},
    };

    use super::*;

    #[test]
    fn a_full_store_leaves_records_in_the_ring_buffer() {
        let site = SiteKey { process: ProcessId(1), gopc: 2, startpc: 3 };
        let exit = Life::Exit(Exit { site, time_ns: 4, goid: 5 });
        let mut waiting = Waiting::default();
        for _ in 0..MOST_LIVES {
            assert!(waiting.has_room());
            waiting.take_in(Ok(StreamRecord::Life(exit)));
        }
        assert!(!waiting.has_room());
        let mut waiting = Waiting::default();
        for _ in 0..MOST_SITES {
            assert!(waiting.has_room());
            waiting.take_in(Ok(StreamRecord::SiteSeen(SiteSeen { site, depth: 0, stack: [0; MAX_STACK] })));
        }
        assert!(!waiting.has_room());
        waiting.take_in(Err(RecordError::Version(VERSION + 1)));
        assert_eq!(waiting.sites.len(), MOST_SITES, "what is no record is passed over");
    }
}

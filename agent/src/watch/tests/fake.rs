//! A host with Go processes, and a kernel that counts what they do: made up, with losses, delays and reordering on demand.

mod host;

use std::{
    cell::{Ref, RefCell, RefMut},
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs::File,
    path::{Path, PathBuf},
    rc::Rc,
    sync::{Arc, mpsc::TryRecvError},
    time::{Duration, Instant},
};

use parkranger_common::{
    callers::Calling,
    counts::{Process, ProcessId, SiteCounts, SiteKey, WaitKey},
    probe::{Event, GOffsets, ProbeWord},
    record::{Birth, Exit, Life, ProcessRecord, ProcessSeen},
    story::Story,
    window::Window,
};

use super::super::{
    Found, ProbeSet, Refusal, Target, WatchError,
    census_thread::{Findings, Stocks},
    finding::{Fresh, Look},
    shared::{CensusInProgress, Host, Shared, Watched},
    stacks::StackBytes,
};
use crate::{
    address::{Bias, FileOffset, RuntimeAddr},
    census::CensusError,
    host::{FileId, HostError, Identity, process::ThreadTime},
    kernel::{Attach, Count, Counters, KernelError, Method, Records, attach::Probe},
    ledger::{Recording, Site},
    runtime::scheduler::GOID_BATCH,
};

/// The only processor of every process.
const P: u64 = 0x1000;
/// CPU time that one event takes that is counted.
const HIT_NS: u64 = 600;

/// One Go process.
pub(super) struct GoProcess {
    identity: Identity,
    file: FileId,
    pub(super) goroutines: BTreeMap<u64, Site>,
    goidgen: u64,
    goidcache: u64,
    goidcacheend: u64,
    pub(super) cpu_ns: u64,
    /// Its one thread.
    pub(super) thread: ThreadTime,
    /// False once it has ended.
    alive: bool,
}

/// Faults of the kernel.
#[derive(Default)]
pub(super) struct Faults {
    /// So many of the next births and exits are counted, and not told.
    pub(super) lose: usize,
    /// Records come so many reads later.
    pub(super) delay: usize,
    /// Exits overtake births.
    pub(super) reorder: bool,
    /// The next audit's census has so many goroutines less, and says so.
    pub(super) incomplete: bool,
    /// No census answers.
    pub(super) hang: bool,
    /// Probes cannot be attached.
    pub(super) refuse_probes: bool,
    /// The list of processes is full.
    pub(super) list_is_full: bool,
}

/// Everything there is.
pub(super) struct Model {
    pub(super) now: Instant,
    pub(super) processes: BTreeMap<u32, GoProcess>,
    listed: BTreeMap<u32, Process>,
    /// Attachments by number: the file's word number and the events.
    placed: BTreeMap<u64, (u32, Vec<Event>)>,
    next_attachment: u64,
    sites: BTreeMap<SiteKey, SiteCounts>,
    waits: BTreeMap<WaitKey, u64>,
    window: Window,
    told: VecDeque<(usize, Life)>,
    seen: Vec<ProcessRecord>,
    pub(super) faults: Faults,
    /// Counters that were read at once.
    pub(super) whole_reads: usize,
    pub(super) stories: BTreeSet<ProcessId>,
    pub(super) refused: Vec<(u32, Refusal)>,
    /// Time that a census takes.
    pub(super) census_takes: Duration,
    pub(super) breakpoints_missing: u64,
    proved: BTreeSet<FileId>,
}

#[derive(Clone)]
pub(super) struct FakeKernel(Rc<RefCell<Model>>);
#[derive(Clone)]
pub(super) struct FakeHost(Rc<RefCell<Model>>, pub(super) Target);

pub(super) struct FakeCensus {
    model: Rc<RefCell<Model>>,
    pid: u32,
    ready: Instant,
    asked: RefCell<Vec<RuntimeAddr>>,
}

/// The model, and the two sides of it that the watch sees.
pub(super) struct World {
    model: Rc<RefCell<Model>>,
    pub(super) shared: Shared<FakeKernel, FakeHost>,
}

pub(super) fn file(number: u64) -> FileId {
    FileId::of(1, number)
}

pub(super) const fn site(number: u64) -> Site {
    Site { gopc: RuntimeAddr(number * 16), startpc: RuntimeAddr(number * 32) }
}

fn word(file: FileId) -> ProbeWord {
    let offsets = GOffsets { gopc: 0, startpc: 16, waitreason: 0, sched_bp: 0, sched_pc: 0 };
    let number = (1..100).find(|number| self::file(u64::from(*number)) == file).unwrap();
    ProbeWord::for_binary(number, offsets).unwrap()
}

impl World {
    pub(super) fn new(target: Target) -> Self {
        let model = Rc::new(RefCell::new(Model {
            now: Instant::now(),
            processes: BTreeMap::new(),
            listed: BTreeMap::new(),
            placed: BTreeMap::new(),
            next_attachment: 0,
            sites: BTreeMap::new(),
            waits: BTreeMap::new(),
            window: Window::default(),
            told: VecDeque::new(),
            seen: Vec::new(),
            faults: Faults::default(),
            whole_reads: 0,
            stories: BTreeSet::new(),
            refused: Vec::new(),
            census_takes: Duration::from_millis(3),
            breakpoints_missing: 0,
            proved: BTreeSet::new(),
        }));
        let shared = Shared::new(FakeKernel(Rc::clone(&model)), FakeHost(Rc::clone(&model), target));
        Self { model, shared }
    }

    pub(super) fn whole_host() -> Self {
        Self::new(Target::Host(crate::program::Rules::default()))
    }

    pub(super) fn model(&self) -> RefMut<'_, Model> {
        self.model.borrow_mut()
    }

    pub(super) fn look(&self) -> Ref<'_, Model> {
        self.model.borrow()
    }

    pub(super) fn wait(&mut self, time: Duration) {
        self.model().now += time;
    }

    /// A process begins, with so many goroutines of a site.
    pub(super) fn start(&mut self, pid: u32, of: FileId, goroutines: u64, at: Site) {
        let process = GoProcess {
            identity: Identity { pid, start_time: u64::from(pid) },
            file: of,
            goroutines: BTreeMap::new(),
            goidgen: 0,
            goidcache: 0,
            goidcacheend: 0,
            cpu_ns: 1,
            thread: ThreadTime { ran_ns: 0, sleeps: true },
            alive: true,
        };
        self.model().processes.insert(pid, process);
        for _ in 0..goroutines {
            self.birth(pid, at);
        }
    }

    /// Every watched process is found by a scan.
    pub(super) fn found(&self) -> Fresh {
        let mut fresh = Fresh::new();
        for process in self.look().processes.values().filter(|process| process.alive) {
            fresh.entry(process.file).or_default().push((process.identity, found(process.file)));
        }
        fresh
    }

    pub(super) fn id(&self, pid: u32) -> ProcessId {
        let mut ids = self.shared.processes.keys().filter(|id| id.tgid() == pid);
        *ids.next_back().unwrap()
    }

    /// A goroutine is created. Gives its goid.
    pub(super) fn birth(&mut self, pid: u32, at: Site) -> u64 {
        let mut model = self.model();
        let process = model.processes.get_mut(&pid).unwrap();
        let (goidcache, goidcacheend) = (process.goidcache, process.goidcacheend);
        if goidcache == goidcacheend {
            process.goidcache = process.goidgen + 1;
            process.goidgen += GOID_BATCH;
            process.goidcacheend = process.goidcache + GOID_BATCH;
        }
        let goid = process.goidcache;
        process.goidcache += 1;
        process.goroutines.insert(goid, at);
        process.cpu_ns += 1000;
        model.hit(pid, at, Event::Birth, |site| Life::Birth(Birth { site, time_ns: 0, p: P, goidcache, goidcacheend }));
        goid
    }

    /// A goroutine ends.
    pub(super) fn exit(&mut self, pid: u32, goid: u64) {
        let mut model = self.model();
        let process = model.processes.get_mut(&pid).unwrap();
        let at = process.goroutines.remove(&goid).unwrap();
        process.cpu_ns += 1000;
        model.hit(pid, at, Event::Exit, |site| Life::Exit(Exit { site, time_ns: 0, goid }));
    }

    /// A goroutine is created and ends.
    pub(super) fn come_and_go(&mut self, pid: u32, at: Site, times: u64) {
        for _ in 0..times {
            let goid = self.birth(pid, at);
            self.exit(pid, goid);
        }
    }

    /// Goroutines park.
    pub(super) fn park(&mut self, pid: u32, at: Site, times: u64) {
        let mut model = self.model();
        model.processes.get_mut(&pid).unwrap().cpu_ns += 1000 * times;
        if let Some(id) = model.counts(pid, Event::Park) {
            model.processes.get_mut(&pid).unwrap().cpu_ns += HIT_NS * times;
            let site = SiteKey { process: id, gopc: at.gopc.0, startpc: at.startpc.0 };
            *model.waits.entry(WaitKey { site, reason: 3 }).or_default() += times;
        }
    }

    /// The process ends.
    pub(super) fn end(&mut self, pid: u32) {
        self.model().processes.get_mut(&pid).unwrap().alive = false;
    }

    /// The probes placed in a file, by event.
    pub(super) fn placed(&self, of: FileId) -> Vec<Event> {
        let number = word(of).binary();
        let model = self.look();
        let mut events: Vec<Event> =
            model.placed.values().filter(|(file, _)| *file == number).flat_map(|(_, events)| events.clone()).collect();
        events.sort_by_key(|event| *event as u32);
        events
    }

    pub(super) fn is_listed(&self, pid: u32) -> Option<bool> {
        self.look().listed.get(&pid).map(|process| process.word != 0)
    }

    /// Live goroutines that the ledger has of a process, by site.
    pub(super) fn live(&mut self, pid: u32) -> BTreeMap<Site, i64> {
        let counters = self.shared.kernel.counters().unwrap();
        self.shared.ledger.apply(&counters);
        let id = self.id(pid);
        let sites = &self.shared.ledger.process(id).sites;
        sites.iter().map(|(site, tally)| (*site, tally.live())).filter(|(_, live)| *live != 0).collect()
    }

    /// Live goroutines that there are.
    pub(super) fn truth(&self, pid: u32) -> BTreeMap<Site, i64> {
        let mut truth = BTreeMap::new();
        for at in self.look().processes[&pid].goroutines.values() {
            *truth.entry(*at).or_default() += 1;
        }
        truth
    }
}

fn found(file: FileId) -> Found {
    Found { file, exe: PathBuf::from(format!("/bin/{file:?}")), library: None }
}

impl Model {
    /// The id under which events of a process are counted; a process of a watched binary is adopted at its first one.
    fn counts(&mut self, pid: u32, event: Event) -> Option<ProcessId> {
        let process = &self.processes[&pid];
        let number = word(process.file).binary();
        let is_placed = |(file, events): &&(u32, Vec<Event>)| *file == number && events.contains(&event);
        if !self.placed.values().any(|placed| is_placed(&placed)) {
            return None;
        }
        match self.listed.get(&pid) {
            Some(listed) => (listed.word != 0).then_some(listed.id),
            None => {
                let id = ProcessId::new(pid, u64::from(pid) << 20);
                self.listed.insert(pid, Process { id, word: word(process.file).0 });
                let word = word(process.file).0;
                self.seen.push(ProcessRecord::Seen(ProcessSeen { process: id, word, instruction: 0, time_ns: 0 }));
                Some(id)
            }
        }
    }

    fn hit(&mut self, pid: u32, at: Site, event: Event, life: impl FnOnce(SiteKey) -> Life) {
        let Some(id) = self.counts(pid, event) else { return };
        self.processes.get_mut(&pid).unwrap().cpu_ns += HIT_NS;
        let key = SiteKey { process: id, gopc: at.gopc.0, startpc: at.startpc.0 };
        let counts = self.sites.entry(key).or_default();
        let audited = self.window.process == id;
        match (event, audited) {
            (Event::Birth, false) => counts.births += 1,
            (Event::Birth, true) => counts.window_births += 1,
            (_, false) => counts.exits += 1,
            (_, true) => counts.window_exits += 1,
        }
        let life = match (life(key), audited, self.window.tail == id) {
            (life, true, _) => life,
            (Life::Birth(birth), false, true) => Life::BirthAfter(birth),
            _ => return,
        };
        if self.faults.lose > 0 {
            self.faults.lose -= 1;
            return;
        }
        self.told.push_back((self.faults.delay, life));
    }
}

impl Attach for FakeKernel {
    type Attachment = u64;
    type Removal = u64;

    fn method(&self) -> Method {
        Method::UprobeMulti
    }

    fn accept(&self, _: &str, _: &[Probe]) -> Result<(), KernelError> {
        Ok(())
    }

    fn attach(&mut self, _: &File, name: &str, probes: &[Probe]) -> Result<u64, KernelError> {
        let mut model = self.0.borrow_mut();
        if model.faults.refuse_probes {
            return Err(KernelError::Attach { path: name.to_owned(), why: "made up".to_owned() });
        }
        let events = probes.iter().map(|probe| probe.event).collect();
        let number = probes[0].word.binary();
        model.next_attachment += 1;
        let attachment = model.next_attachment;
        model.placed.insert(attachment, (number, events));
        Ok(attachment)
    }

    fn attach_story(&mut self, _: &File, _: &str, _: &[Probe]) -> Result<u64, KernelError> {
        Ok(0)
    }

    fn attach_callers(&mut self, _: &File, _: &str, _: &[Probe]) -> Result<u64, KernelError> {
        Ok(0)
    }

    fn mark(&mut self, _: &File, _: &str, _: FileOffset) -> Result<u64, KernelError> {
        Ok(0)
    }

    fn take_off(&mut self, attachment: u64) -> u64 {
        self.0.borrow_mut().placed.remove(&attachment);
        attachment
    }

    fn is_removed(_: &u64) -> bool {
        true
    }
}

impl Count for FakeKernel {
    fn records(&mut self) -> Records {
        let mut model = self.0.borrow_mut();
        let (mut lives, mut later) = (Vec::new(), VecDeque::new());
        for (delay, life) in std::mem::take(&mut model.told) {
            if delay == 0 && later.is_empty() {
                lives.push(life);
            } else {
                later.push_back((delay.saturating_sub(1), life));
            }
        }
        model.told = later;
        if model.faults.reorder {
            lives.sort_by_key(|life| !matches!(life, Life::Exit(_)));
        }
        Records { processes: std::mem::take(&mut model.seen), sites: Vec::new(), lives }
    }

    fn counters(&self) -> Result<Counters, KernelError> {
        let mut model = self.0.borrow_mut();
        model.whole_reads += 1;
        Ok(Counters {
            at: model.now,
            sites: model.sites.iter().map(|(key, counts)| (*key, *counts)).collect(),
            waits: model.waits.iter().map(|(key, parks)| (*key, *parks)).collect(),
            ..Counters::default()
        })
    }

    fn sites_of(&self, process: ProcessId) -> Result<Vec<(SiteKey, SiteCounts)>, KernelError> {
        let model = self.0.borrow();
        Ok(model.sites.iter().filter(|(key, _)| key.process == process).map(|(key, counts)| (*key, *counts)).collect())
    }

    fn waits(&self) -> Result<Vec<(WaitKey, u64)>, KernelError> {
        Ok(self.0.borrow().waits.iter().map(|(key, parks)| (*key, *parks)).collect())
    }

    fn remove_counters(&mut self, gone: &[ProcessId]) -> Result<(), KernelError> {
        let mut model = self.0.borrow_mut();
        model.sites.retain(|key, _| !gone.contains(&key.process));
        model.waits.retain(|key, _| !gone.contains(&key.site.process));
        Ok(())
    }

    fn set_window(&mut self, window: Window) -> Result<(), KernelError> {
        self.0.borrow_mut().window = window;
        Ok(())
    }

    fn list(&mut self, process: Process) -> Result<Option<ProcessId>, KernelError> {
        let mut model = self.0.borrow_mut();
        if model.faults.list_is_full {
            return Ok(None);
        }
        Ok(Some(model.listed.entry(process.id.tgid()).or_insert(process).id))
    }

    fn watched(&mut self, tgid: u32) -> Result<Option<Process>, KernelError> {
        Ok(self.0.borrow().listed.get(&tgid).copied())
    }

    fn unwatch(&mut self, id: ProcessId) -> Result<(), KernelError> {
        let mut model = self.0.borrow_mut();
        if model.listed.get(&id.tgid()).is_some_and(|listed| listed.id == id) {
            model.listed.remove(&id.tgid());
        }
        Ok(())
    }

    fn mute(&mut self, id: ProcessId) -> Result<(), KernelError> {
        let mut model = self.0.borrow_mut();
        if let Some(listed) = model.listed.get_mut(&id.tgid()).filter(|listed| listed.id == id) {
            listed.word = 0;
        }
        Ok(())
    }

    fn begin_callers(&mut self, _: Calling) -> Result<(), KernelError> {
        Ok(())
    }

    fn end_callers(&mut self, _: &[ProcessId]) -> Result<(), KernelError> {
        Ok(())
    }

    fn begin_story(&mut self, story: Story) -> Result<(), KernelError> {
        self.0.borrow_mut().stories.insert(story.process);
        Ok(())
    }

    fn end_story(&mut self, process: ProcessId) -> Result<(), KernelError> {
        self.0.borrow_mut().stories.remove(&process);
        Ok(())
    }

    fn forget_goroutines(&mut self) -> Result<(), KernelError> {
        Ok(())
    }
}

//! The made-up host: its clock, its processes, their memory.

use super::*;

impl Host for FakeHost {
    type Census = FakeCensus;

    fn now(&self) -> Instant {
        self.0.borrow().now
    }

    fn cpu_time_ns(&self, pid: u32) -> Option<u64> {
        let model = self.0.borrow();
        model.processes.get(&pid).filter(|process| process.alive).map(|process| process.cpu_ns)
    }

    fn identity(&self, pid: u32) -> Option<Identity> {
        let model = self.0.borrow();
        model.processes.get(&pid).filter(|process| process.alive).map(|process| process.identity)
    }

    fn thread_times(&self, pid: u32) -> Vec<(u32, u64)> {
        let model = self.0.borrow();
        model.processes.get(&pid).map(|process| (pid, process.thread.ran_ns)).into_iter().collect()
    }

    fn thread_time(&self, pid: u32, _: u32) -> Option<ThreadTime> {
        let model = self.0.borrow();
        let thread = &model.processes.get(&pid)?.thread;
        Some(ThreadTime { ran_ns: thread.ran_ns, sleeps: thread.sleeps })
    }

    fn probe_set(&self, file: FileId) -> Option<Arc<ProbeSet>> {
        let word = word(file);
        let probe = |event: Event| Probe { event, offset: FileOffset(event as u64), word: word.event(event) };
        Some(Arc::new(ProbeSet {
            file: Arc::new(File::open("/dev/null").unwrap()),
            word,
            probes: vec![probe(Event::Birth), probe(Event::Park), probe(Event::Exit)],
            story: Ok(vec![probe(Event::Run)]),
        }))
    }

    fn watched(&self, identity: Identity, found: &Found) -> Result<Watched, HostError> {
        match self.identity(identity.pid) {
            Some(now) if now == identity => Ok(Watched::new(identity, found, Bias(0), Window::default())),
            _ => Err(HostError::NoSuchProcess { pid: identity.pid }),
        }
    }

    fn begin_census(&self, process: &Watched, _: Recording) -> Option<FakeCensus> {
        let model = self.0.borrow();
        Some(FakeCensus {
            model: Rc::clone(&self.0),
            pid: process.identity.pid,
            ready: model.now + model.census_takes,
            asked: RefCell::default(),
        })
    }

    fn probes_attached(&self, _: FileId) {}

    fn set_proved(&self, file: FileId) {
        self.0.borrow_mut().proved.insert(file);
    }

    fn is_wanted(&self, target: &Target, pid: u32, exe: &Path) -> Option<bool> {
        self.identity(pid)?;
        Some(match target {
            Target::Pids(pids) => pids.contains(&pid),
            Target::Host(rules) => rules.admit_by_name(exe),
        })
    }
}

impl Look for FakeHost {
    fn target(&self) -> &Target {
        &self.1
    }

    fn look_at_new(&mut self, pid: u32) -> Result<(Identity, Option<Found>), HostError> {
        let identity = self.identity(pid).ok_or(HostError::NoSuchProcess { pid })?;
        let found = found(self.0.borrow().processes[&pid].file);
        let wanted = self.is_wanted(&self.1, pid, &found.exe) == Some(true);
        Ok((identity, wanted.then_some(found)))
    }

    fn ended_before_a_look(&self, seen: &ProcessSeen, name: &dyn Fn(FileId) -> Option<PathBuf>) -> Option<Watched> {
        let pid = seen.process.tgid();
        let (file, now) = (self.0.borrow().processes[&pid].file, self.now());
        name(file)?;
        let identity = Identity { pid, start_time: u64::from(pid) };
        let mut watched = Watched::new(identity, &found(file), Bias(0), Window::default());
        watched.end(now);
        Some(watched)
    }

    fn settle_files<K: Attach + Count>(_: &mut Shared<K, Self>, fresh: Fresh) -> Result<Fresh, WatchError> {
        Ok(fresh)
    }

    fn refuse(&mut self, identity: Identity, _: PathBuf, why: Refusal) {
        self.0.borrow_mut().refused.push((identity.pid, why));
    }
}

impl CensusInProgress for FakeCensus {
    fn census(&self) -> Result<Result<Findings, CensusError>, TryRecvError> {
        let mut model = self.model.borrow_mut();
        if model.now < self.ready || model.faults.hang {
            return Err(TryRecvError::Empty);
        }
        let complete = !std::mem::take(&mut model.faults.incomplete);
        let goroutines = &model.processes[&self.pid].goroutines;
        Ok(Ok(Findings {
            goroutines: goroutines.iter().map(|(goid, site)| (*goid, *site)).collect(),
            complete,
            system: BTreeSet::new(),
            stacks: StackBytes::default(),
            states: None,
            breakpoints_missing: model.breakpoints_missing,
        }))
    }

    fn ask(&self, processors: Vec<RuntimeAddr>) -> bool {
        self.asked.replace(processors);
        true
    }

    fn stocks(&self) -> Result<Stocks, TryRecvError> {
        let model = self.model.borrow();
        let process = &model.processes[&self.pid];
        let asked = self.asked.borrow();
        Ok(asked.iter().map(|p| (*p, (process.goidcache, process.goidcacheend))).collect())
    }
}

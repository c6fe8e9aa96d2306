//! The kernel's side as the rest of the agent needs it, in two traits: the watch is written against them, so that it is
//! tested without root against a kernel made up for it.

use std::fs::File;

use parkranger_common::{
    callers::Calling,
    counts::{Process, ProcessId, SiteCounts, SiteKey, WaitKey},
    story::Story,
    window::Window,
};

use super::{Attachment, Counters, Kernel, KernelError, Method, Records, Removal, attach::Probe};
use crate::address::FileOffset;

/// Probes: placed in a file for all processes that map it, and taken off.
pub trait Attach {
    /// Probes of one file that were placed together.
    type Attachment;
    /// Probes on their way out. Dropping it waits until no process has them any more.
    type Removal;

    /// The way that probes are attached here.
    fn method(&self) -> Method;

    /// Checks that all probes of one binary can be told apart by the way that probes are attached here.
    ///
    /// # Errors
    ///
    /// [`KernelError::Attach`].
    fn accept(&self, name: &str, probes: &[Probe]) -> Result<(), KernelError>;

    /// Attaches the programs that count to `probes`. `name` is for the error.
    ///
    /// # Errors
    ///
    /// [`KernelError::Attach`]; then none of them is left attached.
    fn attach(&mut self, binary: &File, name: &str, probes: &[Probe]) -> Result<Self::Attachment, KernelError>;

    /// Attaches the programs that time waits and lives to `probes`, beside those that count.
    ///
    /// # Errors
    ///
    /// [`KernelError::Attach`], also where stories cannot be told here.
    fn attach_story(&mut self, binary: &File, name: &str, probes: &[Probe]) -> Result<Self::Attachment, KernelError>;

    /// Attaches the programs that tell callers apart at those of `probes` that are births and exits, beside those that count.
    ///
    /// # Errors
    ///
    /// [`KernelError::Attach`], also where callers cannot be told apart here.
    fn attach_callers(&mut self, binary: &File, name: &str, probes: &[Probe]) -> Result<Self::Attachment, KernelError>;

    /// Attaches a program that counts nothing at one instruction of `binary`: its breakpoint shows in which processes'
    /// code the kernel sees that very file.
    ///
    /// # Errors
    ///
    /// [`KernelError::Attach`].
    fn mark(&mut self, binary: &File, name: &str, offset: FileOffset) -> Result<Self::Attachment, KernelError>;

    /// Takes probes off without waiting for it.
    fn take_off(&mut self, attachment: Self::Attachment) -> Self::Removal;

    /// True once no process has the probes any more.
    fn is_removed(removal: &Self::Removal) -> bool;
}

/// Counters and records, and the lists that say of whom there are some.
pub trait Count {
    /// Empties the ring buffers.
    fn records(&mut self) -> Records;

    /// All counters: totals since each process was listed.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`], here and below.
    fn counters(&self) -> Result<Counters, KernelError>;

    /// Births and exits of one process by site.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    fn sites_of(&self, process: ProcessId) -> Result<Vec<(SiteKey, SiteCounts)>, KernelError>;

    /// Parks of all processes by site and reason.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    fn waits(&self) -> Result<Vec<(WaitKey, u64)>, KernelError>;

    /// Removes the counters of processes that are gone for good.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    fn remove_counters(&mut self, gone: &[ProcessId]) -> Result<(), KernelError>;

    /// Has the births and exits of `window`'s process told one by one from now on.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    fn set_window(&mut self, window: Window) -> Result<(), KernelError>;

    /// Lists a process, so that its hits are counted, and gives the id it is listed under; `None` where the list is full.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    fn list(&mut self, process: Process) -> Result<Option<ProcessId>, KernelError>;

    /// The entry of `tgid` in the list.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    fn watched(&mut self, tgid: u32) -> Result<Option<Process>, KernelError>;

    /// Takes a process off the list, if the entry is still its own.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    fn unwatch(&mut self, id: ProcessId) -> Result<(), KernelError>;

    /// Has a process of a watched binary passed over, if the entry is still its own.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    fn mute(&mut self, id: ProcessId) -> Result<(), KernelError>;

    /// Has waits and lives of a process timed from now on.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    fn begin_story(&mut self, story: Story) -> Result<(), KernelError>;

    /// Ends that. What came of it stays.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    fn end_story(&mut self, process: ProcessId) -> Result<(), KernelError>;

    /// Forgets the goroutines of stories that are told no longer. To be called once their probes are gone.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    fn forget_goroutines(&mut self) -> Result<(), KernelError>;

    /// Has the callers of a process told apart from now on.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    fn begin_callers(&mut self, calling: Calling) -> Result<(), KernelError>;

    /// Ends that, and forgets what was counted by caller. To be called once their probes are gone, or they are.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    fn end_callers(&mut self, processes: &[ProcessId]) -> Result<(), KernelError>;
}

impl Attach for Kernel {
    type Attachment = Attachment;
    type Removal = Removal;

    fn method(&self) -> Method {
        self.method()
    }

    fn accept(&self, name: &str, probes: &[Probe]) -> Result<(), KernelError> {
        self.accept(name, probes)
    }

    fn attach(&mut self, binary: &File, name: &str, probes: &[Probe]) -> Result<Attachment, KernelError> {
        self.attach(binary, name, probes)
    }

    fn attach_story(&mut self, binary: &File, name: &str, probes: &[Probe]) -> Result<Attachment, KernelError> {
        self.attach_story(binary, name, probes)
    }

    fn attach_callers(&mut self, binary: &File, name: &str, probes: &[Probe]) -> Result<Attachment, KernelError> {
        self.attach_callers(binary, name, probes)
    }

    fn mark(&mut self, binary: &File, name: &str, offset: FileOffset) -> Result<Attachment, KernelError> {
        self.mark(binary, name, offset)
    }

    fn take_off(&mut self, attachment: Attachment) -> Removal {
        self.take_off(attachment)
    }

    fn is_removed(removal: &Removal) -> bool {
        removal.is_done()
    }
}

impl Count for Kernel {
    fn records(&mut self) -> Records {
        self.records()
    }

    fn counters(&self) -> Result<Counters, KernelError> {
        self.counters()
    }

    fn sites_of(&self, process: ProcessId) -> Result<Vec<(SiteKey, SiteCounts)>, KernelError> {
        self.sites_of(process)
    }

    fn waits(&self) -> Result<Vec<(WaitKey, u64)>, KernelError> {
        self.waits()
    }

    fn remove_counters(&mut self, gone: &[ProcessId]) -> Result<(), KernelError> {
        self.remove_counters(gone)
    }

    fn set_window(&mut self, window: Window) -> Result<(), KernelError> {
        self.set_window(window)
    }

    fn list(&mut self, process: Process) -> Result<Option<ProcessId>, KernelError> {
        self.list(process)
    }

    fn watched(&mut self, tgid: u32) -> Result<Option<Process>, KernelError> {
        self.watched(tgid)
    }

    fn unwatch(&mut self, id: ProcessId) -> Result<(), KernelError> {
        self.unwatch(id)
    }

    fn mute(&mut self, id: ProcessId) -> Result<(), KernelError> {
        self.mute(id)
    }

    fn begin_story(&mut self, story: Story) -> Result<(), KernelError> {
        self.begin_story(story)
    }

    fn end_story(&mut self, process: ProcessId) -> Result<(), KernelError> {
        self.end_story(process)
    }

    fn forget_goroutines(&mut self) -> Result<(), KernelError> {
        self.forget_goroutines()
    }

    fn begin_callers(&mut self, calling: Calling) -> Result<(), KernelError> {
        self.begin_callers(calling)
    }

    fn end_callers(&mut self, processes: &[ProcessId]) -> Result<(), KernelError> {
        self.end_callers(processes)
    }
}

//! Probes on one binary.

use std::{fs::File, os::fd::AsRawFd as _};

use aya::programs::{
    UProbe,
    uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLinkId, UProbeScope},
};
use parkranger_common::{
    names,
    probe::{Event, GOffsets, NO_BINARY, ProbeWord},
};
use tracing::debug;

use super::{
    Kernel, KernelError, Method, Removal,
    load::{program, with_sources},
    page_cache,
    removal::Links,
    vforked::in_vforked_child,
};
use crate::address::FileOffset;

/// One probe: an instruction, and the word it carries.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// The event it stands for.
    pub event: Event,
    /// The instruction in the file.
    pub offset: FileOffset,
    /// The word the program gets with each hit.
    pub word: ProbeWord,
}

/// The probes of one binary, attached for all processes that map it. [`Kernel::detach`] takes them off.
#[derive(Debug)]
pub struct Attachment {
    links: Vec<(&'static str, UProbeLinkId)>,
}

impl Kernel {
    /// Checks that all probes of one binary can be told apart by the way that probes are attached here.
    ///
    /// # Errors
    ///
    /// [`KernelError::Attach`].
    pub fn accept(&self, name: &str, probes: &[Probe]) -> Result<(), KernelError> {
        // Programs without a cookie take this flag from the process's word, so all probes of a binary must share it.
        let differ = probes.windows(2).any(|two| two[0].word.skips_taken() != two[1].word.skips_taken());
        if self.method == Method::PerfPlain && differ {
            let why = "its probes differ in a way that needs attach cookies (kernel 5.15)".to_owned();
            return Err(KernelError::Attach { path: name.to_owned(), why });
        }
        Ok(())
    }

    /// Attaches `probes`, all of a binary's or some, to the inode of `binary` for every process that maps it, now or later.
    ///
    /// The kernel is given the open file, not a path: whatever a container does to the path, the probes are in the file
    /// that was read. `name` is for the error.
    ///
    /// # Errors
    ///
    /// [`KernelError::Attach`]; then none of them is left attached.
    pub fn attach(&mut self, binary: &File, name: &str, probes: &[Probe]) -> Result<Attachment, KernelError> {
        let groups: Vec<(&'static str, Vec<&Probe>)> = match self.method {
            Method::UprobeMulti => vec![(names::SCHEDULER_MULTI, probes.iter().collect())],
            Method::PerfCookie => vec![(names::SCHEDULER_SINGLE, probes.iter().collect())],
            Method::PerfPlain => {
                [(names::BIRTH_PLAIN, Event::Birth), (names::PARK_PLAIN, Event::Park), (names::EXIT_PLAIN, Event::Exit)]
                    .into_iter()
                    .map(|(program, event)| (program, probes.iter().filter(|probe| probe.event == event).collect()))
                    .collect()
            }
        };
        let mut attachment = Attachment { links: Vec::new() };
        for (program, probes) in groups {
            if probes.is_empty() {
                continue;
            }
            match self.attach_program(program, binary, &probes) {
                Ok(link) => attachment.links.push((program, link)),
                Err(why) => {
                    self.detach(attachment);
                    return Err(KernelError::Attach { path: name.to_owned(), why });
                }
            }
        }
        Ok(attachment)
    }

    fn attach_program(&mut self, name: &'static str, binary: &File, probes: &[&Probe]) -> Result<UProbeLinkId, String> {
        let with_cookie = self.method != Method::PerfPlain;
        let points = probes.iter().map(|probe| UProbeAttachPoint {
            location: UProbeAttachLocation::AbsoluteOffset(probe.offset.0),
            cookie: with_cookie.then_some(probe.word.0),
        });
        page_cache::read_in(binary, probes.iter().map(|probe| probe.offset))
            .map_err(|error| format!("its code cannot be read: {error}"))?;
        let program: &mut UProbe = program(&mut self.ebpf, name).map_err(|error| error.to_string())?;
        let path = format!("/proc/self/fd/{}", binary.as_raw_fd());
        in_vforked_child(|| program.attach(points, path, UProbeScope::AllProcesses))
            .map_err(|why| why.to_string())?
            .map_err(|error| with_sources(&error))
    }

    /// Takes the probes off again. Returns once no process has them any more.
    pub fn detach(&mut self, attachment: Attachment) {
        drop(self.take_off(attachment));
    }

    /// Takes the probes off without waiting for it: the kernel makes sure that no program runs any more, which takes 20 to
    /// 40 ms for a uprobe_multi link and 100 ms for each perf-event probe.
    pub fn take_off(&mut self, attachment: Attachment) -> Removal {
        Removal::of(self.take(attachment))
    }

    /// Takes the probes out of the loaded programs' hands.
    pub(super) fn take(&mut self, attachment: Attachment) -> Links {
        let mut links = Vec::new();
        for (name, link) in attachment.links {
            let taken = program::<UProbe>(&mut self.ebpf, name)
                .map_err(|error| error.to_string())
                .and_then(|program| program.take_link(link).map_err(|error| with_sources(&error)));
            match taken {
                Ok(link) => links.push(link),
                Err(error) => debug!("detaching {name}: {error}"),
            }
        }
        Links(links)
    }

    /// Attaches a program that counts nothing at one instruction of `binary`: its breakpoint shows in which processes'
    /// code the kernel sees that very file.
    ///
    /// # Errors
    ///
    /// [`KernelError::Attach`].
    pub fn mark(&mut self, binary: &File, name: &str, offset: FileOffset) -> Result<Attachment, KernelError> {
        // The word of no binary: numbers are given from 1 on, and this one to nobody.
        let offsets = GOffsets { gopc: 0, startpc: 16, waitreason: 0, sched_bp: 0, sched_pc: 0 };
        let word = ProbeWord::for_binary(NO_BINARY, offsets)
            .ok_or_else(|| KernelError::Attach { path: name.to_owned(), why: "no word for it".to_owned() })?;
        let probe = Probe { event: Event::Run, offset, word: word.event(Event::Run) };
        match self.method {
            Method::UprobeMulti | Method::PerfCookie => self.attach(binary, name, &[probe]),
            // Without a cookie every program counts for the processes that are listed.
            Method::PerfPlain => self.attach_at_first_use(names::MARK_PLAIN, binary, name, &[probe]),
        }
    }

    /// Attaches a program that is not loaded before it is needed.
    pub(super) fn attach_at_first_use(
        &mut self,
        program_name: &'static str,
        binary: &File,
        name: &str,
        probes: &[Probe],
    ) -> Result<Attachment, KernelError> {
        let error = |why: String| KernelError::Attach { path: name.to_owned(), why };
        let program: &mut UProbe = program(&mut self.ebpf, program_name)?;
        if program.fd().is_err() {
            program.load().map_err(|why| error(with_sources(&why)))?;
        }
        let link = self.attach_program(program_name, binary, &probes.iter().collect::<Vec<_>>()).map_err(error)?;
        Ok(Attachment { links: vec![(program_name, link)] })
    }
}

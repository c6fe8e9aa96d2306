//! Files that have several names and are one to the kernel.
//!
//! Containers of one image have its binary on an overlay mount each: `stat` says another device for each mount, while
//! uprobes go to the inode below, of which there is one. Attached once per name, every hit would run as many programs as
//! there are containers.
//!
//! Two names may be of one file where length and time of change agree. That is a supposition; the kernel alone knows. So
//! a breakpoint is put into the one file, at an instruction that has none, and looked for in the memory of a process
//! that runs the other: if it came up there, the two are one. Where that cannot be settled, the file gets an attachment of its
//! own, which costs more and counts the same, for each process goes by the number of one binary.

use tracing::{debug, info};

use super::{
    Found, Refusal, Refused, WatchError,
    code::{Instruction, Reader, breakpoints},
    finding::{Finder, Fresh},
    probes::Probes,
    shared::Shared,
};
use crate::{
    host::{FileId, Identity},
    kernel::{Attach, Count},
    printable,
};

type Processes = Vec<(Identity, Found)>;

impl<K: Attach + Count> Shared<K, Finder> {
    /// Puts processes of a file that is another one by name only to those of the other.
    pub(super) fn settle_files(&mut self, fresh: Fresh) -> Result<Fresh, WatchError> {
        let mut settled = Fresh::new();
        let mut supposed: Vec<(FileId, FileId, Processes)> = Vec::new();
        for (file, processes) in fresh {
            match self.host.binaries.supposed_to_be(file) {
                Some(other) => supposed.push((file, other, processes)),
                None => settled.entry(file).or_default().extend(processes),
            }
        }
        while let Some(&(_, other, _)) = supposed.first() {
            let (group, rest) = supposed.into_iter().partition(|(_, of, _)| *of == other);
            supposed = rest;
            for (file, same, processes) in self.are_one(other, group)? {
                if same {
                    debug!("{file:?} is {other:?} to the kernel");
                    self.host.binaries.merge(file, other);
                    self.enlist(other, processes, &mut settled);
                    continue;
                }
                match self.host.binaries.set_apart(file) {
                    // It may be one with yet another file.
                    Ok(Some(another)) => supposed.push((file, another, processes)),
                    Ok(None) => self.enlist(file, processes, &mut settled),
                    Err(why) => self.refuse_found(processes, &why),
                }
            }
        }
        Ok(settled)
    }

    fn enlist(&self, file: FileId, processes: Processes, settled: &mut Fresh) {
        let found = processes.into_iter().map(|(identity, found)| (identity, Found { file, ..found }));
        settled.entry(file).or_default().extend(found);
    }

    fn refuse_found(&mut self, processes: Processes, why: &Refusal) {
        for (identity, found) in processes {
            info!("process {} ({}) cannot be watched: {why}", identity.pid, printable::path(&found.exe));
            self.host.refused.insert(identity, Refused::new(found.exe, why.clone()));
        }
    }

    /// Tells of each of these files if it is `other` to the kernel.
    fn are_one(
        &mut self,
        other: FileId,
        files: Vec<(FileId, FileId, Processes)>,
    ) -> Result<Vec<(FileId, bool, Processes)>, WatchError> {
        let Some(binary) = self.host.binaries.get(other) else {
            return Ok(files.into_iter().map(|(file, _, processes)| (file, false, processes)).collect());
        };
        let mut answers = Vec::new();
        let mut open = Vec::new();
        for (file, _, processes) in files {
            let mut adopted = false;
            for (identity, _) in &processes {
                // The kernel side adopted it through the other's probes.
                let listed = self.kernel.watched(identity.pid)?;
                adopted |= listed.is_some_and(|listed| listed.is_of(binary.set.word.binary()));
            }
            if adopted { answers.push((file, true, processes)) } else { open.push((file, processes)) }
        }
        let same = self.marked(other, &open);
        answers.extend(open.into_iter().zip(same).map(|((file, processes), same)| (file, same, processes)));
        Ok(answers)
    }

    /// Puts a breakpoint into `other`, and looks for it in one process of each file.
    fn marked(&mut self, other: FileId, files: &[(FileId, Processes)]) -> Vec<bool> {
        let nothing = vec![false; files.len()];
        let Some(binary) = self.host.binaries.get(other) else { return nothing };
        let Ok(point) = &binary.plan.run else { return nothing };
        if files.is_empty() || self.probes.get(&other).is_some_and(Probes::tells_story) {
            // A story has its own breakpoint there.
            return nothing;
        }
        let readers: Vec<Option<Reader>> = files
            .iter()
            .map(|(_, processes)| {
                let (identity, found) = processes.first()?;
                let bias = found.bias(&self.host.proc, identity.pid, &binary).ok()?;
                let instruction = Instruction { offset: point.offset, address: bias.to_runtime(point.address) };
                let witness = bias.to_runtime(binary.go.binary.function_table_address());
                Some(Reader { identity: *identity, witness, instruction })
            })
            .collect();
        let known: Vec<Reader> = readers.iter().flatten().copied().collect();
        // Marks of earlier questions: dropping waits until they are gone.
        self.marks.clear();
        let before = breakpoints(&self.host.proc, &binary.set.file, &known);
        let mark = match self.kernel.mark(&binary.set.file, &point.function, point.offset) {
            Ok(mark) => mark,
            Err(error) => {
                debug!("{other:?}: {error}");
                return nothing;
            }
        };
        let after = breakpoints(&self.host.proc, &binary.set.file, &known);
        self.marks.push(self.kernel.take_off(mark));
        let mut came_up =
            before.into_iter().zip(after).map(|(before, after)| before == Some(false) && after == Some(true));
        readers.iter().map(|reader| reader.is_some() && came_up.next().unwrap_or(false)).collect()
    }
}

//! Stories: the programs that time waits and lives, whose story is told, and what came of it.

use std::{fs::File, os::fd::AsFd as _};

use aya::{
    Pod,
    maps::{HashMap, Map},
};
use parkranger_common::{
    counts::ProcessId,
    names,
    story::{Goroutine, GoroutineKey, Histogram, HistogramKey, Spent, SpentKey, Story},
};
use tracing::debug;

use super::{
    Attachment, Kernel, KernelError, Method,
    attach::Probe,
    batch,
    load::with_sources,
    read::{ignore_missing, missing, of_bytes, read_error},
};

/// Every story told so far: totals since it began first.
#[derive(Clone, Debug, Default)]
pub struct Stories {
    /// Waits by reason, and lifetimes.
    pub histograms: Vec<(HistogramKey, Histogram)>,
    /// The same by site, summed up.
    pub spent: Vec<(SpentKey, Spent)>,
    /// Goroutines that got to run, of stories being told.
    pub runs: Vec<(ProcessId, u64)>,
}

impl Kernel {
    /// Attaches the programs that time what `probes` hit, beside those that count.
    ///
    /// # Errors
    ///
    /// [`KernelError::Attach`], also where stories cannot be told here.
    pub fn attach_story(&mut self, binary: &File, name: &str, probes: &[Probe]) -> Result<Attachment, KernelError> {
        let error = |why: String| KernelError::Attach { path: name.to_owned(), why };
        let story = match self.method {
            _ if !self.stories => {
                return Err(error(
                    "parkranger was not started for stories: --fidelity story, or serve with a token".into(),
                ));
            }
            Method::UprobeMulti => names::STORY_MULTI,
            Method::PerfCookie => names::STORY_SINGLE,
            Method::PerfPlain => return Err(error("a story needs attach cookies (kernel 5.15)".into())),
        };
        self.attach_at_first_use(story, binary, name, probes)
    }

    /// The story of a process is told from now on.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn begin_story(&mut self, story: Story) -> Result<(), KernelError> {
        let mut stories: HashMap<_, u32, Story> = self.map_mut(names::STORIES)?;
        let written = stories.insert(&story.process.tgid(), &story, 0);
        written.map_err(|error| KernelError::Map {
            action: "write",
            map: names::STORIES,
            why: with_sources(&error),
        })?;
        self.told.insert(story.process);
        Ok(())
    }

    /// It is told no longer. What came of it stays.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn end_story(&mut self, process: ProcessId) -> Result<(), KernelError> {
        let mut stories: HashMap<_, u32, Story> = self.map_mut(names::STORIES)?;
        let tgid = process.tgid();
        if stories.get(&tgid, 0).is_ok_and(|story| story.process == process) {
            ignore_missing(stories.remove(&tgid), names::STORIES)?;
        }
        Ok(())
    }

    /// Forgets the goroutines of stories that are told no longer. To be called once their probes are gone.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn forget_goroutines(&mut self) -> Result<(), KernelError> {
        let telling: HashMap<_, u32, Story> = self.map(names::STORIES)?;
        let telling: Vec<(ProcessId, u64)> =
            telling.iter().filter_map(|entry| entry.ok().map(|(_, story)| (story.process, story.since_ns))).collect();
        let mut gone: Vec<(GoroutineKey, Goroutine)> = self.values(names::GOROUTINES)?;
        gone.retain(|(key, goroutine)| !telling.contains(&(key.process, goroutine.story_ns)));
        self.remove_all(names::GOROUTINES, &gone)
    }

    /// Waits and lifetimes of all stories.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub(super) fn told_stories(&self) -> Result<Stories, KernelError> {
        if self.told.is_empty() {
            return Ok(Stories::default());
        }
        let stories: Vec<(u32, Story)> = self.values(names::STORIES)?;
        Ok(Stories {
            histograms: self.values(names::HISTOGRAMS)?,
            spent: self.values(names::SPENT)?,
            runs: stories.into_iter().map(|(_, story)| (story.process, story.runs)).collect(),
        })
    }

    /// Removes everything of stories of processes that are gone for good.
    pub(super) fn remove_stories(&mut self, gone: &[ProcessId]) -> Result<(), KernelError> {
        let gone: Vec<ProcessId> = gone.iter().copied().filter(|process| self.told.remove(process)).collect();
        if gone.is_empty() {
            return Ok(());
        }
        for process in &gone {
            self.end_story(*process)?;
        }
        let mut histograms: Vec<(HistogramKey, Histogram)> = self.values(names::HISTOGRAMS)?;
        histograms.retain(|(key, _)| gone.contains(&key.process));
        self.remove_all(names::HISTOGRAMS, &histograms)?;
        let mut spent: Vec<(SpentKey, Spent)> = self.values(names::SPENT)?;
        spent.retain(|(key, _)| gone.contains(&key.site.process));
        self.remove_all(names::SPENT, &spent)?;
        self.forget_goroutines()
    }

    /// All entries of a hash map.
    pub(super) fn values<K: Pod, V: Pod>(&self, name: &'static str) -> Result<Vec<(K, V)>, KernelError> {
        let Some(Map::HashMap(data) | Map::LruHashMap(data)) = self.ebpf.map(name) else { return Err(missing(name)) };
        let mut entries = Vec::new();
        let read = batch::for_each(data.fd().as_fd(), size_of::<K>(), size_of::<V>(), |key, value| {
            entries.extend(of_bytes(key).zip(of_bytes(value)));
        });
        if let Err(error) = read {
            debug!("the map {name} is not read at once: {error}");
            entries.clear();
            let map: HashMap<_, K, V> = self.map(name)?;
            for entry in &map {
                entries.push(entry.map_err(|error| read_error(name, &error))?);
            }
        }
        Ok(entries)
    }

    pub(super) fn remove_all<K: Pod, V: Pod>(
        &mut self,
        name: &'static str,
        entries: &[(K, V)],
    ) -> Result<(), KernelError> {
        let mut map: HashMap<_, K, V> = self.map_mut(name)?;
        entries.iter().try_for_each(|(key, _)| ignore_missing(map.remove(key), name))
    }
}

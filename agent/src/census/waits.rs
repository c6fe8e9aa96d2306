//! What parked goroutines wait on: channels, and from Go 1.26 on locks.
//!
//! A goroutine's `waiting` leads to one `sudog` per channel it waits on, linked by `waitlink`. Refuses a sudog that does
//! not name the goroutine it was reached from, and follows at most [`MAX_LINKS`] of one goroutine, so that a list that
//! bites its own tail ends.

use std::collections::HashMap;

use crate::{
    address::RuntimeAddr,
    binary::bytes::{u16_at, u32_at, u64_at},
    host::{Batch, Memory, MemoryError},
    runtime::waiting::{SudogLayout, channel},
};

/// Cases of one `select` that are followed.
const MAX_LINKS: usize = 256;
/// Objects kept of one census.
const MAX_OBJECTS: usize = 16 << 20;

/// Something goroutines wait on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitObject {
    /// Where it is.
    pub address: RuntimeAddr,
    /// A channel, not a lock.
    pub is_channel: bool,
    /// A channel's state when it was read; `None` for a lock.
    pub channel: Option<Channel>,
    /// How many goroutines of this census wait on it.
    pub waiters: u32,
}

/// A channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel {
    /// Elements in its buffer.
    pub len: u64,
    /// Room in its buffer.
    pub cap: u64,
    /// Size of one element.
    pub elem_bytes: u16,
    /// Whether it is closed.
    pub closed: bool,
}

/// Which objects of a census one goroutine waits on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitsOn {
    start: u32,
    count: u16,
}

/// All objects that goroutines of a census wait on.
#[derive(Debug, Default)]
pub struct WaitObjects {
    known: HashMap<u64, u32>,
    objects: Vec<WaitObject>,
    links: Vec<u32>,
}

impl Channel {
    /// True for one like those of timers and tickers: room for one `time.Time`.
    #[must_use]
    pub fn is_like_a_timers(&self) -> bool {
        const TIME_BYTES: u16 = 24;
        self.cap == 1 && self.elem_bytes == TIME_BYTES
    }

    /// True for one that can only be a signal: no room, and nothing in it, as of `context.Context.Done`.
    #[must_use]
    pub fn is_a_signal(&self) -> bool {
        self.elem_bytes == 0 && self.cap == 0
    }
}

impl WaitObjects {
    /// What a goroutine waits on; more than one for a `select`.
    pub fn of(&self, waits: WaitsOn) -> impl Iterator<Item = &WaitObject> {
        let start = waits.start as usize;
        let links = self.links.get(start..start + usize::from(waits.count)).unwrap_or_default();
        links.iter().filter_map(|index| self.objects.get(*index as usize))
    }

    /// Addresses of the locks among them.
    pub(super) fn locks(&self) -> impl Iterator<Item = u64> {
        self.objects.iter().filter(|object| !object.is_channel).map(|object| object.address.0)
    }

    /// Notes that a goroutine waits on `found`.
    pub(super) fn record(&mut self, found: &[Found]) -> WaitsOn {
        let start = u32::try_from(self.links.len()).unwrap_or(u32::MAX);
        for found in found {
            if self.objects.len() >= MAX_OBJECTS {
                break;
            }
            let index = *self.known.entry(found.address).or_insert_with(|| {
                self.objects.push(WaitObject {
                    address: RuntimeAddr(found.address),
                    is_channel: found.is_channel,
                    channel: None,
                    waiters: 0,
                });
                u32::try_from(self.objects.len() - 1).unwrap_or(u32::MAX)
            });
            if let Some(object) = self.objects.get_mut(index as usize) {
                object.channel = found.channel.or(object.channel);
                object.waiters = object.waiters.saturating_add(1);
            }
            self.links.push(index);
        }
        let count = u16::try_from(self.links.len() - start as usize).unwrap_or(u16::MAX);
        WaitsOn { start, count }
    }
}

/// One thing that one goroutine waits on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    address: u64,
    is_channel: bool,
    channel: Option<Channel>,
}

/// One goroutine to be looked at, and what was found.
pub(super) struct Asked {
    /// Address of its struct.
    pub(super) g: u64,
    /// Its next sudog, 0 at the end.
    pub(super) next: u64,
    pub(super) found: Vec<Found>,
}

/// Follows the lists of many goroutines, one step of all of them at a time. `budget` is how many sudogs may be read.
pub(super) fn follow(
    memory: &impl Memory,
    layout: SudogLayout,
    asked: &mut [Asked],
    batch: &mut Batch,
    budget: &mut u64,
) -> Result<(), MemoryError> {
    for _ in 0..MAX_LINKS {
        batch.clear();
        let mut pieces: Vec<(usize, usize)> = Vec::new();
        for (index, one) in asked.iter().enumerate().filter(|(_, one)| one.next != 0) {
            pieces.push((index, batch.add(RuntimeAddr(one.next), layout.size)));
        }
        *budget = budget.saturating_sub(pieces.len() as u64);
        if pieces.is_empty() || *budget == 0 {
            break;
        }
        memory.read_batch(batch)?;
        for (index, piece) in pieces {
            let Some(one) = asked.get_mut(index) else { continue };
            one.next = 0;
            let Some(sudog) = batch.get(piece) else { continue };
            let word = |at| u64_at(sudog, at).unwrap_or_default();
            if word(layout.g) != one.g {
                // Not a sudog of its: it has gone on meanwhile.
                continue;
            }
            let (channel, lock) = (word(layout.channel), word(layout.elem));
            if channel != 0 {
                one.found.push(Found { address: channel, is_channel: true, channel: None });
            } else if layout.has_locks && lock != 0 {
                one.found.push(Found { address: lock, is_channel: false, channel: None });
            }
            one.next = word(layout.waitlink);
        }
    }
    channels(memory, asked, batch)
}

/// Reads the heads of all channels found.
fn channels(memory: &impl Memory, asked: &mut [Asked], batch: &mut Batch) -> Result<(), MemoryError> {
    batch.clear();
    let mut pieces: HashMap<u64, usize> = HashMap::new();
    for found in asked.iter().flat_map(|one| &one.found).filter(|found| found.is_channel) {
        pieces.entry(found.address).or_insert_with(|| batch.add(RuntimeAddr(found.address), channel::HEAD_BYTES));
    }
    memory.read_batch(batch)?;
    for found in asked.iter_mut().flat_map(|one| &mut one.found) {
        let head = pieces.get(&found.address).and_then(|piece| batch.get(*piece));
        found.channel = head.filter(|_| found.is_channel).and_then(|head| {
            Some(Channel {
                len: u64_at(head, channel::QCOUNT)?,
                cap: u64_at(head, channel::DATAQSIZ)?,
                elem_bytes: u16_at(head, channel::ELEM_BYTES)?,
                closed: u32_at(head, channel::CLOSED)? != 0,
            })
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{binary::GoVersion, census::fake::Fake};

    const G: u64 = 0x1000;

    fn layout(version: &str) -> SudogLayout {
        SudogLayout::of(&GoVersion::parse(version).unwrap())
    }

    /// A sudog of Go 1.21: of `g`, on `channel`, linked to `next`.
    fn sudog(g: u64, channel: u64, next: u64) -> Vec<u64> {
        let mut words = vec![0; 11];
        (words[0], words[8], words[10]) = (g, next, channel);
        words
    }

    fn asked(next: u64) -> Vec<Asked> {
        vec![Asked { g: G, next, found: Vec::new() }]
    }

    fn addresses(asked: &[Asked]) -> Vec<u64> {
        asked[0].found.iter().map(|found| found.address).collect()
    }

    #[test]
    fn a_select_waits_on_all_its_channels() {
        let mut memory = Fake::default();
        memory.words(0x2000, &sudog(G, 0x9000, 0x3000));
        memory.words(0x3000, &sudog(G, 0xa000, 0));
        memory.words(0x9000, &[2, 5, 0, 1 << 32 | 24]);
        let mut asked = asked(0x2000);
        follow(&memory, layout("go1.21.13"), &mut asked, &mut Batch::default(), &mut 1000).unwrap();
        assert_eq!(addresses(&asked), [0x9000, 0xa000]);
        assert_eq!(asked[0].found[0].channel, Some(Channel { len: 2, cap: 5, elem_bytes: 24, closed: true }));
        assert_eq!(asked[0].found[1].channel, None, "it cannot be read");
        let mut objects = WaitObjects::default();
        let first = objects.record(&asked[0].found);
        let second = objects.record(&asked[0].found);
        let waiters: Vec<u32> = objects.of(first).map(|object| object.waiters).collect();
        assert_eq!(waiters, [2, 2]);
        assert_eq!(objects.of(second).count(), 2);
    }

    #[test]
    fn a_lock_is_what_it_waits_on_from_go_1_26_on() {
        let mut memory = Fake::default();
        let mut words = vec![0; 13];
        (words[0], words[4]) = (G, 0x7000);
        memory.words(0x2000, &words);
        for (version, found) in [("go1.27.3", vec![0x7000]), ("go1.25.5", vec![])] {
            let mut asked = asked(0x2000);
            follow(&memory, layout(version), &mut asked, &mut Batch::default(), &mut 1000).unwrap();
            assert_eq!(addresses(&asked), found, "{version}");
        }
    }

    #[test]
    fn a_list_that_bites_its_tail_ends() {
        let mut memory = Fake::default();
        memory.words(0x2000, &sudog(G, 0x9000, 0x2000));
        let mut asked = asked(0x2000);
        follow(&memory, layout("go1.21.13"), &mut asked, &mut Batch::default(), &mut 1_000_000).unwrap();
        assert_eq!(asked[0].found.len(), MAX_LINKS);
        let mut one = self::asked(0x2000);
        follow(&memory, layout("go1.21.13"), &mut one, &mut Batch::default(), &mut 10).unwrap();
        assert!(one[0].found.len() <= 10, "the budget ends it sooner");
    }

    #[test]
    fn a_sudog_of_another_goroutine_is_not_believed() {
        let mut memory = Fake::default();
        memory.words(0x2000, &sudog(G + 8, 0x9000, 0x2000));
        let mut asked = asked(0x2000);
        follow(&memory, layout("go1.21.13"), &mut asked, &mut Batch::default(), &mut 1000).unwrap();
        assert!(asked[0].found.is_empty());
    }
}

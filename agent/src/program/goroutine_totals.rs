//! The number of goroutines a process has made and has, by the runtime's own counts: a few words of its memory.
//!
//! - made: `sched.goidgen` counts goids. A processor takes sixteen at a time and keeps the rest (`goidcache` up to
//!   `goidcacheend`), one that is gone, too, so all that ever were are asked: `allp` up to its capacity.
//! - there: `allglen` structs, without those on the free lists and without the runtime's own (`ngsys`): what
//!   `runtime.NumGoroutine()` says (`runtime.gcount`, `runtime/proc.go`).
//!
//! Goids and free structs move between `sched` and processors in batches. What is read while one moves is wrong by a batch,
//! so `sched` is read before and after the processors, until it held still. In a storm of some 100,000 births per second on
//! each processor it never does for long, and the last reading is taken, wrong by the few batches that moved in it.

use crate::{
    address::{Bias, RuntimeAddr},
    binary::bytes::{u32_at, u64_at},
    host::{Batch, Memory, MemoryError},
    runtime::{NumberPlaces, scheduler::GOID_BATCH},
};

/// Goroutines of one process at one moment, by the runtime's own counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GoroutineTotals {
    /// Goroutines made since the process began, the runtime's own too.
    pub made: u64,
    /// Goroutines there are, as `runtime.NumGoroutine()` counts them.
    pub users: u64,
}

/// Readings until nothing moved.
const TRIES: u32 = 24;
/// More processors than any machine has: then it is something else that was read.
const MAX_PROCESSORS: u64 = 4096;
/// More goroutine structs than memory has room for on most machines.
const MAX_STRUCTS: u64 = 1 << 25;
/// More goroutines of the runtime's own, C threads among them, than there can be.
const MAX_SYSTEM: u64 = 1 << 20;

/// The words read of `sched`, and of the lists of goroutine structs and processors.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shared {
    goidgen: u64,
    system: u64,
    free: u64,
    structs: u64,
    /// Address and capacity of `allp`.
    processors: (u64, u64),
}

impl NumberPlaces {
    /// True where the counts of goroutines are known.
    #[must_use]
    pub fn has_goroutine_totals(&self) -> bool {
        self.goroutines.is_some()
    }

    /// Reads the counts of goroutines from a process that loaded the binary with `bias`. `structs` is the address of the
    /// number of goroutine structs. `None` where what is there makes no sense.
    ///
    /// # Errors
    ///
    /// [`MemoryError`].
    pub fn read_goroutine_totals(
        &self,
        memory: &impl Memory,
        bias: Bias,
        structs: RuntimeAddr,
    ) -> Result<Option<GoroutineTotals>, MemoryError> {
        let mut before = self.read_shared(memory, bias, structs)?;
        let mut last = None;
        for _ in 0..TRIES {
            let Some(shared) = &before else { return Ok(None) };
            let of_processors = self.read_processors(memory, shared.processors)?;
            let after = self.read_shared(memory, bias, structs)?;
            last = of_processors.and_then(|(kept, free)| totals(shared, kept, free)).or(last);
            if before == after {
                return Ok(last);
            }
            before = after;
        }
        Ok(last)
    }

    fn read_shared(
        &self,
        memory: &impl Memory,
        bias: Bias,
        structs: RuntimeAddr,
    ) -> Result<Option<Shared>, MemoryError> {
        let Some(places) = &self.goroutines else { return Ok(None) };
        let mut batch = Batch::default();
        let [goidgen, system] = places.sched.map(|place| batch.add(bias.to_runtime(place), 8));
        let structs = batch.add(structs, 8);
        let processors = batch.add(bias.to_runtime(places.allp), 24);
        let free: Vec<usize> = places.free.iter().map(|place| batch.add(bias.to_runtime(*place), 4)).collect();
        memory.read_batch(&mut batch)?;
        let read = || {
            let list = batch.get(processors)?;
            let sizes: Option<Vec<u32>> = free.iter().map(|piece| u32_at(batch.get(*piece)?, 0)).collect();
            Some(Shared {
                goidgen: u64_at(batch.get(goidgen)?, 0)?,
                system: u64::from(u32_at(batch.get(system)?, 0)?),
                free: sizes?.into_iter().map(u64::from).sum(),
                structs: u64_at(batch.get(structs)?, 0)?,
                processors: (u64_at(list, 0)?, u64_at(list, 16)?),
            })
        };
        Ok(read().filter(|shared| {
            (1..=MAX_PROCESSORS).contains(&shared.processors.1)
                && (1..=MAX_STRUCTS).contains(&shared.structs)
                && shared.free <= shared.structs
                && shared.system <= MAX_SYSTEM
        }))
    }

    /// Goids that processors keep, and their free goroutine structs. `None` where one is no processor.
    fn read_processors(
        &self,
        memory: &impl Memory,
        (list, capacity): (u64, u64),
    ) -> Result<Option<(u64, u64)>, MemoryError> {
        let Some(places) = &self.goroutines else { return Ok(None) };
        let mut batch = Batch::default();
        let bytes = u32::try_from(8 * capacity).unwrap_or(u32::MAX);
        batch.add(RuntimeAddr(list), bytes);
        memory.read_batch(&mut batch)?;
        let Some(pointers) = batch.get(0).map(|bytes| bytes.as_chunks::<8>().0.to_vec()) else { return Ok(None) };
        let mut batch = Batch::default();
        // Those after the last one that was ever made are nil.
        let made: Vec<u64> = pointers.into_iter().map(u64::from_le_bytes).filter(|p| *p != 0).collect();
        for p in &made {
            batch.add(RuntimeAddr(p.wrapping_add(places.goidcache)), 16);
            batch.add(RuntimeAddr(p.wrapping_add(places.p_free)), 4);
        }
        memory.read_batch(&mut batch)?;
        let (mut kept, mut free) = (0u64, 0u64);
        for number in 0..made.len() {
            let read = || {
                let stock = batch.get(2 * number)?;
                let rest = u64_at(stock, 8)?.checked_sub(u64_at(stock, 0)?).filter(|rest| *rest <= GOID_BATCH)?;
                Some((rest, u64::from(u32_at(batch.get(2 * number + 1)?, 0)?)))
            };
            let Some((rest, own)) = read() else { return Ok(None) };
            kept += rest;
            free = free.saturating_add(own);
        }
        Ok(Some((kept, free)))
    }
}

fn totals(shared: &Shared, kept: u64, free: u64) -> Option<GoroutineTotals> {
    let made = shared.goidgen.checked_sub(kept)?;
    let there = shared.structs.checked_sub(shared.free)?.checked_sub(free)?;
    // Like the runtime, which says 1 where structs are on their way between lists.
    let users = there.saturating_sub(shared.system).max(1);
    Some(GoroutineTotals { made, users })
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::BTreeMap};

    use super::*;
    use crate::{address::VirtAddr, runtime::number_places::GoroutineCountPlaces};

    const SCHED: u64 = 0x1000;
    const ALLP: u64 = 0x2000;
    const STRUCTS: RuntimeAddr = RuntimeAddr(0x3000);
    const LIST: u64 = 0x4000;
    const P: [u64; 3] = [0x10000, 0x20000, 0x30000];

    /// Words by address; a reading of `goidgen` may let a batch move.
    struct Words {
        words: RefCell<BTreeMap<u64, u64>>,
        moving: RefCell<u32>,
    }

    impl Words {
        fn set(&self, at: u64, word: u64) {
            self.words.borrow_mut().insert(at, word);
        }
    }

    impl Memory for Words {
        fn read(&self, address: RuntimeAddr, buf: &mut [u8]) -> Result<(), MemoryError> {
            if address.0 == SCHED && *self.moving.borrow() > 0 {
                *self.moving.borrow_mut() -= 1;
                let goidgen = self.words.borrow()[&SCHED];
                self.set(SCHED, goidgen + 16);
            }
            for (number, part) in buf.chunks_mut(8).enumerate() {
                let at = address.0 + 8 * number as u64;
                let words = self.words.borrow();
                let bytes = 8;
                let word = words.get(&at).ok_or(MemoryError::Unmapped { pid: 0, address, bytes })?;
                part.copy_from_slice(&word.to_le_bytes()[..part.len()]);
            }
            Ok(())
        }

        fn read_batch(&self, batch: &mut Batch) -> Result<(), MemoryError> {
            batch.fill_with(|address, buf| self.read(address, buf).is_ok());
            Ok(())
        }

        fn still_there(&self) -> Result<(), MemoryError> {
            Ok(())
        }
    }

    fn places() -> NumberPlaces {
        let goroutines = GoroutineCountPlaces {
            sched: [VirtAddr(SCHED), VirtAddr(SCHED + 96)],
            free: vec![VirtAddr(SCHED + 200), VirtAddr(SCHED + 216)],
            allp: VirtAddr(ALLP),
            goidcache: 384,
            p_free: 2472,
        };
        NumberPlaces { goroutines: Some(goroutines), ..NumberPlaces::default() }
    }

    /// 160 goids handed out, of which processors have kept 5, 0 and (one that is gone) 9; 100 structs, 21 and 30 of them free.
    fn process() -> Words {
        let words = Words { words: RefCell::default(), moving: RefCell::default() };
        for (at, word) in [(0, 160), (96, 4), (200, 8), (216, 13)] {
            words.set(SCHED + at, word);
        }
        for (at, word) in [(0, LIST), (8, 2), (16, 4)] {
            words.set(ALLP + at, word);
        }
        words.set(STRUCTS.0, 100);
        for (number, (p, rest)) in P.into_iter().zip([5, 0, 9]).enumerate() {
            words.set(LIST + 8 * number as u64, p);
            words.set(p + 384, 1000 - rest);
            words.set(p + 392, 1000);
            words.set(p + 2472, 10);
        }
        words.set(LIST + 24, 0);
        words
    }

    fn read(words: &Words) -> Option<GoroutineTotals> {
        places().read_goroutine_totals(words, Bias(0), STRUCTS).unwrap()
    }

    #[test]
    fn all_that_were_made_and_those_that_are_there() {
        assert_eq!(read(&process()), Some(GoroutineTotals { made: 146, users: 100 - 21 - 30 - 4 }));
    }

    #[test]
    fn a_batch_that_moves_meanwhile_is_waited_for() {
        let words = process();
        words.moving.replace(6);
        assert_eq!(read(&words).map(|totals| totals.made), Some(146 + 6 * 16));
        words.moving.replace(1000);
        let made = read(&words).map_or(0, |totals| totals.made);
        assert!(made.abs_diff(146 + 6 * 16) <= 26 * 16, "{made}");
    }

    #[test]
    fn what_makes_no_sense_is_no_count() {
        for (at, word) in [
            (ALLP + 16, 0),
            (ALLP + 16, 1 << 20),
            (STRUCTS.0, 0),
            (STRUCTS.0, 1 << 40),
            (SCHED + 200, 1000),
            (SCHED + 96, u64::from(u32::MAX)),
            (P[1] + 384, 900),
            (P[1] + 384, 2000),
            (SCHED, 3),
        ] {
            let words = process();
            words.set(at, word);
            assert_eq!(read(&words), None, "{at:#x} {word}");
        }
        assert_eq!(NumberPlaces::default().read_goroutine_totals(&process(), Bias(0), STRUCTS).unwrap(), None);
    }
}

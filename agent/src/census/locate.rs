//! Finds the runtime's list of all goroutine structs, `runtime.allgs` (`runtime/proc.go`), in a live process.
//!
//! The function `runtime.allgadd` appends to it in every build, stripped or not, so the list is among the addresses its
//! code uses, beside `allglen` and `allgptr`, which the runtime keeps for readers without its lock. Where that function
//! is not to be found (its name was hidden), the .bss section is searched.
//!
//! Refuses a list whose entries are no goroutine structs: each must name itself in `sched.g`, have a stack and a known
//! status, and the first goroutine of all must come from a function of the binary.

use super::{CensusError, goroutine::Raw};
use crate::{
    address::{Bias, RuntimeAddr, VirtAddr},
    binary::{Binary, bytes::u64_at, code::data_references},
    host::{Batch, Memory, MemoryError},
    runtime::Layout,
};

/// More goroutine structs than memory has room for on most machines: each comes with a stack of 2 KiB at least.
pub(super) const MAX_SLOTS: u64 = 1 << 25;
/// Entries looked at before a list is believed.
const SAMPLES: u64 = 32;
const FUNCTION: &str = "runtime.allgadd";
const NOWHERE: &str = "no place to look at";
const MAX_BSS_BYTES: u64 = 64 << 20;
/// Words of .bss that look like a slice are many; a list of goroutines is one.
const MAX_SLICES: usize = 100_000;
/// Readings of a list that changes.
const TRIES: u32 = 16;

/// Where the list is. Does not change while the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AllGs {
    slice: RuntimeAddr,
    /// `allglen` and `allgptr`.
    lock_free: Option<(RuntimeAddr, RuntimeAddr)>,
}

/// A Go slice in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slice {
    pointer: u64,
    length: u64,
    capacity: u64,
}

impl Slice {
    fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self { pointer: u64_at(bytes, 0)?, length: u64_at(bytes, 8)?, capacity: u64_at(bytes, 16)? })
    }

    fn is_plausible(self) -> bool {
        self.pointer != 0
            && self.pointer.is_multiple_of(8)
            && (1..=self.capacity).contains(&self.length)
            && self.capacity <= 2 * MAX_SLOTS
    }
}

/// What is asked of a candidate.
pub(super) struct Search<'a, M> {
    pub(super) memory: &'a M,
    pub(super) binary: &'a Binary,
    pub(super) bias: Bias,
    pub(super) layout: &'a Layout,
}

impl<M: Memory> Search<'_, M> {
    /// Looks for the list.
    pub(super) fn find(&self) -> Result<AllGs, CensusError> {
        let mut looked_at = 0;
        let mut why = NOWHERE;
        let mut empty = false;
        for function in self.binary.functions_named(FUNCTION)? {
            let references = data_references(self.binary, &function)?;
            for _ in 0..TRIES {
                let words = self.words_at(&references)?;
                for (address, slice) in &words {
                    looked_at += 1;
                    empty |= *slice == Slice { pointer: 0, length: 0, capacity: 0 };
                    let named = |wanted: u64| {
                        words.iter().find(|(at, other)| at != address && other.pointer == wanted).map(|(at, _)| *at)
                    };
                    let lock_free = named(slice.length).zip(named(slice.pointer));
                    match self.check(*slice, lock_free.is_some())? {
                        Ok(()) => return Ok(AllGs { slice: *address, lock_free }),
                        Err(reason) if slice.is_plausible() => why = reason,
                        Err(_) => {}
                    }
                }
            }
        }
        // Nothing has been put there yet. What else lies in .bss says nothing then.
        let starting = empty && why == NOWHERE;
        if let Some(found) = self.scan(&mut looked_at, &mut why)? {
            return Ok(found);
        }
        if starting {
            return Err(CensusError::Starting);
        }
        Err(CensusError::NotFound { candidates: looked_at, why })
    }

    /// The three words at each address, read together.
    fn words_at(&self, references: &[VirtAddr]) -> Result<Vec<(RuntimeAddr, Slice)>, MemoryError> {
        let mut batch = Batch::default();
        let addresses: Vec<RuntimeAddr> = references.iter().map(|address| self.bias.to_runtime(*address)).collect();
        for address in &addresses {
            batch.add(*address, 24);
        }
        self.memory.read_batch(&mut batch)?;
        let words = addresses.iter().enumerate();
        Ok(words.filter_map(|(piece, address)| Some((*address, Slice::parse(batch.get(piece)?)?))).collect())
    }

    /// Searches the .bss section for a slice of goroutine structs.
    fn scan(&self, looked_at: &mut usize, why: &mut &'static str) -> Result<Option<AllGs>, CensusError> {
        const PIECE_BYTES: u64 = 1 << 20;
        let Some(bss) = self.binary.image().sections.iter().find(|section| section.name == ".bss") else {
            return Ok(None);
        };
        let end = bss.address.saturating_add(bss.bytes.min(MAX_BSS_BYTES));
        let mut buf = Vec::new();
        let mut at = bss.address;
        while at < end {
            // Each piece overlaps the next, so that no slice is cut.
            let size = (end - at).min(PIECE_BYTES + 16);
            buf.resize(usize::try_from(size).unwrap_or_default(), 0);
            let start = self.bias.to_runtime(VirtAddr(at));
            if self.memory.read(start, &mut buf).is_ok() {
                for offset in (0..buf.len().saturating_sub(23)).step_by(8) {
                    let Some(slice) = buf.get(offset..).and_then(Slice::parse).filter(|slice| slice.is_plausible())
                    else {
                        continue;
                    };
                    *looked_at += 1;
                    if *looked_at > MAX_SLICES {
                        return Ok(None);
                    }
                    match self.check(slice, false)? {
                        Ok(()) => {
                            return Ok(Some(AllGs { slice: RuntimeAddr(start.0 + offset as u64), lock_free: None }));
                        }
                        Err(reason) => *why = reason,
                    }
                }
            }
            at += PIECE_BYTES;
        }
        Ok(None)
    }

    /// Whether a slice holds goroutine structs. `trusted`: the runtime's other two variables agree with it.
    fn check(&self, slice: Slice, trusted: bool) -> Result<Result<(), &'static str>, CensusError> {
        if !slice.is_plausible() {
            return Ok(Err("no slice"));
        }
        let count = slice.length.min(SAMPLES);
        let mut entries = vec![0; count as usize * 8];
        if self.memory.read(RuntimeAddr(slice.pointer), &mut entries).is_err() {
            return Ok(Err("its entries cannot be read"));
        }
        let mut batch = Batch::default();
        let entries: Vec<u64> = entries.as_chunks::<8>().0.iter().map(|entry| u64::from_le_bytes(*entry)).collect();
        for entry in &entries {
            batch.add(RuntimeAddr(*entry), self.layout.size);
        }
        self.memory.read_batch(&mut batch)?;
        for (piece, entry) in entries.iter().enumerate() {
            let raw = batch.get(piece).and_then(|bytes| Raw::parse(bytes, self.layout));
            let Some(raw) = raw else { return Ok(Err("an entry is no goroutine struct")) };
            // While one is being made, `sched` is empty for an instant.
            let being_made = piece > 0 && raw.sched_g == 0;
            if !being_made && !raw.is_at(RuntimeAddr(*entry)) {
                return Ok(Err("an entry does not name itself as its own goroutine"));
            }
            if piece == 0 {
                // A main goroutine that called runtime.Goexit leaves its struct to others.
                if raw.goid != 1 && !trusted {
                    return Ok(Err("its first entry is not the first goroutine"));
                }
                if self.binary.record_at(self.bias.to_virt(RuntimeAddr(raw.gopc)))?.is_none() {
                    return Ok(Err("its first goroutine was made by no function of the binary"));
                }
                let start = self.bias.to_virt(RuntimeAddr(raw.startpc));
                if self.binary.record_at(start)?.is_none_or(|function| function.entry != start.0) {
                    return Ok(Err("its first goroutine starts at no function of the binary"));
                }
            }
        }
        Ok(Ok(()))
    }
}

impl AllGs {
    /// Address of the number of goroutine structs: the length of the slice.
    pub(super) fn length_address(&self) -> RuntimeAddr {
        RuntimeAddr(self.slice.0.saturating_add(8))
    }

    /// The addresses of all goroutine structs there are now.
    pub(super) fn slots(&self, memory: &impl Memory) -> Result<Vec<RuntimeAddr>, CensusError> {
        for _ in 0..TRIES {
            let before = self.slice(memory)?;
            if before.length > MAX_SLOTS {
                return Err(CensusError::TooMany { claimed: before.length, limit: MAX_SLOTS });
            }
            let Some(slots) = entries(memory, before)? else { continue };
            // The array is replaced when it is full, and the old one freed by the next collection.
            if self.slice(memory)?.pointer == before.pointer {
                return Ok(slots);
            }
        }
        Err(CensusError::Unsteady)
    }

    /// The list now. With the lock-free pair: length first, so that the array holds at least as many.
    fn slice(&self, memory: &impl Memory) -> Result<Slice, CensusError> {
        if let Some((length, pointer)) = self.lock_free {
            let length = memory.word(length)?;
            let pointer = memory.word(pointer)?;
            return Ok(Slice { pointer, length, capacity: length });
        }
        let read = || -> Result<Slice, CensusError> {
            let mut raw = [0; 24];
            memory.read(self.slice, &mut raw)?;
            Ok(Slice { pointer: u64_at(&raw, 0).unwrap_or(0), length: u64_at(&raw, 8).unwrap_or(0), capacity: 0 })
        };
        for _ in 0..TRIES {
            let slice = read()?;
            if read()? == slice {
                return Ok(slice);
            }
        }
        Err(CensusError::Unsteady)
    }
}

/// The entries of the list. `None` where it went away meanwhile.
fn entries(memory: &impl Memory, slice: Slice) -> Result<Option<Vec<RuntimeAddr>>, CensusError> {
    const PIECE_ENTRIES: u64 = 128 << 10;
    let mut slots = Vec::new();
    let mut done = 0;
    let mut buf = Vec::new();
    while done < slice.length {
        let count = (slice.length - done).min(PIECE_ENTRIES);
        buf.resize(count as usize * 8, 0);
        match memory.read(RuntimeAddr(slice.pointer.wrapping_add(done * 8)), &mut buf) {
            Ok(()) => {}
            Err(MemoryError::Unmapped { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        slots.extend(buf.as_chunks::<8>().0.iter().map(|entry| RuntimeAddr(u64::from_le_bytes(*entry))));
        done += count;
    }
    Ok(Some(slots))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::census::fake::Fake;

    #[test]
    fn the_list_is_read_by_the_pair_without_a_lock() {
        let mut memory = Fake::default();
        memory.words(0x100, &[0xbad0, 7, 9]);
        memory.words(0x200, &[3]);
        memory.words(0x300, &[0x4000]);
        memory.words(0x4000, &[0x10, 0x20, 0x30, 0x40]);
        let allgs = AllGs { slice: RuntimeAddr(0x100), lock_free: Some((RuntimeAddr(0x200), RuntimeAddr(0x300))) };
        assert_eq!(allgs.slots(&memory).unwrap(), [RuntimeAddr(0x10), RuntimeAddr(0x20), RuntimeAddr(0x30)]);
        let without = AllGs { lock_free: None, ..allgs };
        assert!(matches!(without.slots(&memory), Err(CensusError::Unsteady)), "its array is not there");
    }

    #[test]
    fn a_list_of_any_length_is_refused_before_it_is_read() {
        let mut memory = Fake::default();
        memory.words(0x100, &[0x4000, u64::MAX / 8, u64::MAX / 8]);
        let allgs = AllGs { slice: RuntimeAddr(0x100), lock_free: None };
        assert!(matches!(allgs.slots(&memory), Err(CensusError::TooMany { .. })));
        assert!(memory.reads.get() < 10);
    }

    #[test]
    fn a_slice_is_plausible_only_with_order_in_it() {
        let slice = |pointer, length, capacity| Slice { pointer, length, capacity }.is_plausible();
        assert!(slice(0x1000, 1, 1) && slice(0x1000, 5, 8));
        assert!(!slice(0, 1, 1) && !slice(0x1001, 1, 1) && !slice(0x1000, 0, 1) && !slice(0x1000, 2, 1));
        assert!(!slice(0x1000, 1, u64::MAX));
    }
}

//! Who may hold a lock that others wait for: nothing in Go's locks says whose they are, but whoever has locked one and goes
//! on has its address, or that of the struct it is in, on its stack.
//!
//! Only parked goroutines are looked at, and only from Go 1.26 on, where it is known which lock a goroutine waits for. A word
//! on a stack may be a leftover: this is a hint, never a proof. Refuses more than [`MAX_LOCKS`] locks, and reads at most
//! [`MAX_STACK_BYTES`] of one stack and [`MAX_BYTES`] of all.

use std::collections::BTreeSet;

use super::{Census, CensusError, Runtime, goroutine::Raw};
use crate::{
    address::RuntimeAddr,
    host::{Batch, Memory},
};

/// Locks that are looked for.
const MAX_LOCKS: usize = 1 << 12;
/// Bytes of one stack, from its inner end.
const MAX_STACK_BYTES: u64 = 16 << 10;
/// Bytes of all stacks.
const MAX_BYTES: u64 = 32 << 20;
/// Distance in bytes within a struct that a lock is looked for behind the address that is on a stack.
const MAX_OFFSET: u64 = 128;

/// A lock whose address is on a goroutine's stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mention {
    /// The goroutine.
    pub goid: u64,
    /// The lock, as in [`super::WaitObject::address`].
    pub lock: RuntimeAddr,
}

/// Looks for the locks that are waited for on all stacks that were read. `slots` is where the runtime's structs are.
pub(super) fn mentions(
    runtime: &Runtime,
    memory: &impl Memory,
    slots: &[RuntimeAddr],
    census: &Census,
) -> Result<Vec<Mention>, CensusError> {
    let locks: BTreeSet<u64> = census.wait_objects.locks().take(MAX_LOCKS).collect();
    if locks.is_empty() {
        return Ok(Vec::new());
    }
    let mut structs = Batch::default();
    let parked = census.goroutines.iter().filter(|goroutine| goroutine.wait_reason.is_some());
    let asked: Vec<(u64, usize)> = parked
        .filter_map(|goroutine| {
            let address = slots.get(goroutine.slot as usize)?;
            Some((goroutine.goid, structs.add(*address, runtime.layout.size)))
        })
        .collect();
    memory.read_batch(&mut structs)?;
    let mut stacks = Batch::default();
    let mut left = MAX_BYTES;
    let mut read: Vec<(u64, usize)> = Vec::new();
    for (goid, piece) in asked {
        let raw = structs.get(piece).and_then(|bytes| Raw::parse(bytes, &runtime.layout));
        let Some(raw) = raw.filter(|raw| raw.goid == goid) else { continue };
        let Some((_, sp)) = raw.resumes_at() else { continue };
        let bytes = (raw.stack_hi - sp).min(MAX_STACK_BYTES);
        left = match left.checked_sub(bytes) {
            Some(left) => left,
            None => break,
        };
        read.push((goid, stacks.add(RuntimeAddr(sp), u32::try_from(bytes).unwrap_or(0))));
    }
    memory.read_batch(&mut stacks)?;
    let mut found = BTreeSet::new();
    for (goid, piece) in read {
        for word in stacks.get(piece).unwrap_or_default().as_chunks::<8>().0 {
            let word = u64::from_le_bytes(*word);
            let end = word.saturating_add(MAX_OFFSET);
            for lock in locks.range(word..end) {
                found.insert(Mention { goid, lock: RuntimeAddr(*lock) });
            }
        }
    }
    Ok(found.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::MAX_OFFSET;

    #[test]
    fn a_lock_is_found_behind_the_struct_it_is_in_and_not_before() {
        let locks = BTreeSet::from([0x1008u64, 0x2000]);
        let found = |word: u64| locks.range(word..word + MAX_OFFSET).copied().collect::<Vec<_>>();
        assert_eq!(found(0x1000), [0x1008], "the second field of a struct");
        assert_eq!(found(0x1008), [0x1008]);
        assert!(found(0x1009).is_empty() && found(0xf00).is_empty());
    }
}

//! The pprof labels of a goroutine (`runtime/pprof`, `labelMap`): a map up to Go 1.23, a list from 1.24 on.
//!
//! A set of labels is never changed once a goroutine has it, so it may be read at leisure while the goroutine keeps the
//! same one. Refuses more than [`MAX_LABELS`] labels, and cuts texts at [`MAX_TEXT_BYTES`].

use std::collections::{BTreeMap, HashMap};

use crate::{
    address::RuntimeAddr,
    binary::{GoVersion, bytes::u64_at},
    host::{Memory, MemoryError},
};

const MAX_LABELS: u64 = 256;
const MAX_TEXT_BYTES: u64 = 4096;
/// Different sets kept; beyond that goroutines appear without.
const MAX_SETS: usize = 1 << 20;

/// Labels of a goroutine, by key.
pub type Labels = BTreeMap<String, String>;

/// Which set of a census; 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelsId(u32);

impl LabelsId {
    /// No labels.
    pub const NONE: Self = Self(0);
}

/// All different sets of labels of a census.
#[derive(Debug, Default)]
pub struct LabelSets {
    known: HashMap<Labels, LabelsId>,
    sets: Vec<Labels>,
}

impl LabelSets {
    fn intern(&mut self, labels: Labels) -> LabelsId {
        if labels.is_empty() || self.sets.len() >= MAX_SETS {
            return LabelsId::NONE;
        }
        if let Some(id) = self.known.get(&labels) {
            return *id;
        }
        self.sets.push(labels.clone());
        let id = LabelsId(u32::try_from(self.sets.len()).unwrap_or_default());
        self.known.insert(labels, id);
        id
    }

    /// The labels of a set, by key.
    pub fn get(&self, id: LabelsId) -> impl Iterator<Item = (&str, &str)> {
        let set = (id.0 as usize).checked_sub(1).and_then(|index| self.sets.get(index));
        set.into_iter().flatten().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// Reads sets of labels. What was read is remembered by address until [`Reader::forget`].
pub(super) struct Reader {
    is_map: bool,
    known: HashMap<u64, LabelsId>,
}

impl Reader {
    pub(super) fn new(version: &GoVersion) -> Self {
        Self { is_map: (version.major, version.minor) < (1, 24), known: HashMap::new() }
    }

    /// To be called when goroutines whose labels were read may have got others.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }

    /// The labels at `address`. `None` where they cannot be read or are none.
    pub(super) fn read(
        &mut self,
        memory: &impl Memory,
        address: u64,
        sets: &mut LabelSets,
    ) -> Result<Option<LabelsId>, MemoryError> {
        if let Some(id) = self.known.get(&address) {
            return Ok(Some(*id));
        }
        let read = if self.is_map { map(memory, address) } else { list(memory, address) };
        match read {
            Ok(Some(labels)) => {
                let id = sets.intern(labels);
                self.known.insert(address, id);
                Ok(Some(id))
            }
            Ok(None) | Err(MemoryError::Unmapped { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// `struct { list []struct{ key, value string } }`.
fn list(memory: &impl Memory, address: u64) -> Result<Option<Labels>, MemoryError> {
    let mut header = [0; 24];
    memory.read(RuntimeAddr(address), &mut header)?;
    let (Some(pointer), Some(length)) = (u64_at(&header, 0), u64_at(&header, 8)) else { return Ok(None) };
    if length > MAX_LABELS {
        return Ok(None);
    }
    let mut raw = vec![0; length as usize * 32];
    memory.read(RuntimeAddr(pointer), &mut raw)?;
    let mut labels = Labels::new();
    for entry in raw.as_chunks::<32>().0 {
        let Some((key, value)) = pair(memory, entry.get(..16), entry.get(16..))? else { return Ok(None) };
        labels.insert(key, value);
    }
    Ok(Some(labels))
}

/// A pointer to `map[string]string` as it was before Swiss tables (`runtime/map.go`, `hmap` and `bmap`).
fn map(memory: &impl Memory, address: u64) -> Result<Option<Labels>, MemoryError> {
    const HMAP_BYTES: usize = 48;
    const MAX_B: u8 = 8;
    let map = memory.word(RuntimeAddr(address))?;
    if map == 0 {
        return Ok(Some(Labels::new()));
    }
    let mut hmap = [0; HMAP_BYTES];
    memory.read(RuntimeAddr(map), &mut hmap)?;
    let count = u64_at(&hmap, 0).unwrap_or(u64::MAX);
    let (b, buckets, old) = (hmap[9], u64_at(&hmap, 16).unwrap_or(0), u64_at(&hmap, 24).unwrap_or(0));
    if count > MAX_LABELS || b > MAX_B {
        return Ok(None);
    }
    let mut labels = Labels::new();
    if buckets != 0 {
        table(memory, buckets, 1 << b, &mut labels)?;
    }
    // While the table grows, some entries are still in the old one; those that were moved are marked so.
    if old != 0 && b > 0 {
        table(memory, old, 1 << (b - 1), &mut labels)?;
    }
    Ok((labels.len() as u64 == count).then_some(labels))
}

/// The live entries of `count` buckets and the ones that overflow them.
fn table(memory: &impl Memory, buckets: u64, count: u64, labels: &mut Labels) -> Result<(), MemoryError> {
    const CELLS: usize = 8;
    const BUCKET_BYTES: usize = CELLS + CELLS * 16 * 2 + 8;
    /// `minTopHash`: below it a cell is empty or moved.
    const MIN_TOP_HASH: u8 = 5;
    let mut overflows = MAX_LABELS;
    for index in 0..count {
        let mut next = buckets.wrapping_add(index * BUCKET_BYTES as u64);
        while next != 0 {
            let mut bucket = [0; BUCKET_BYTES];
            memory.read(RuntimeAddr(next), &mut bucket)?;
            for (cell, top_hash) in bucket.iter().take(CELLS).enumerate() {
                if *top_hash < MIN_TOP_HASH {
                    continue;
                }
                let (key, value) = (CELLS + cell * 16, CELLS + (CELLS + cell) * 16);
                if let Some((key, value)) = pair(memory, bucket.get(key..key + 16), bucket.get(value..value + 16))? {
                    labels.insert(key, value);
                }
            }
            next = u64_at(&bucket, BUCKET_BYTES - 8).unwrap_or(0);
            overflows = overflows.saturating_sub(1);
            if overflows == 0 {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Key and value behind two string headers.
fn pair(
    memory: &impl Memory,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
) -> Result<Option<(String, String)>, MemoryError> {
    let (Some(key), Some(value)) = (key, value) else { return Ok(None) };
    Ok(text(memory, key)?.zip(text(memory, value)?))
}

fn text(memory: &impl Memory, header: &[u8]) -> Result<Option<String>, MemoryError> {
    let (Some(pointer), Some(length)) = (u64_at(header, 0), u64_at(header, 8)) else { return Ok(None) };
    let mut raw = vec![0; length.min(MAX_TEXT_BYTES) as usize];
    memory.read(RuntimeAddr(pointer), &mut raw)?;
    Ok(Some(String::from_utf8_lossy(&raw).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::census::fake::Fake;

    fn read(version: &str, memory: &Fake, address: u64) -> Option<Vec<(String, String)>> {
        let mut sets = LabelSets::default();
        let mut reader = Reader::new(&GoVersion::parse(version).unwrap());
        let id = reader.read(memory, address, &mut sets).unwrap()?;
        Some(sets.get(id).map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    fn texts(memory: &mut Fake) {
        memory.bytes(0x5000, b"endpoint/api".to_vec());
    }

    #[test]
    fn a_list_of_go_1_24() {
        let mut memory = Fake::default();
        texts(&mut memory);
        memory.words(0x1000, &[0x2000, 1, 1]);
        memory.words(0x2000, &[0x5000, 8, 0x5008, 4]);
        assert_eq!(read("go1.24.11", &memory, 0x1000).unwrap(), [("endpoint".to_owned(), "/api".to_owned())]);
    }

    #[test]
    fn a_map_of_go_1_23_that_is_growing() {
        let bucket = |top_hash: u8| {
            let mut words = vec![0u64; 34];
            words[0] = u64::from(top_hash);
            (words[1], words[2], words[17], words[18]) = (0x5000, 8, 0x5008, 4);
            words
        };
        let map = |buckets: u64, old: u64, b: u64| [1, b << 8, buckets, old, 0, 0];
        let mut memory = Fake::default();
        texts(&mut memory);
        memory.words(0x1000, &[0x1100]);
        memory.words(0x1100, &map(0x2000, 0, 0));
        memory.words(0x2000, &bucket(7));
        let expected = [("endpoint".to_owned(), "/api".to_owned())];
        assert_eq!(read("go1.23.9", &memory, 0x1000).unwrap(), expected);
        // Two new buckets, both empty, and the old one with an entry that was not moved yet.
        memory.words(0x1100, &map(0x3000, 0x2000, 1));
        memory.words(0x3000, &[0; 68]);
        assert_eq!(read("go1.23.9", &memory, 0x1000).unwrap(), expected);
        // Moved: it must be in the new ones, and is not.
        memory.words(0x2000, &bucket(2));
        assert_eq!(read("go1.23.9", &memory, 0x1000), None);
    }

    #[test]
    fn lengths_are_not_believed() {
        let mut memory = Fake::default();
        memory.words(0x1000, &[0x2000, u64::MAX, u64::MAX]);
        assert_eq!(read("go1.24.11", &memory, 0x1000), None);
        memory.words(0x1000, &[0x2000, 1, 1]);
        memory.words(0x2000, &[0x5000, u64::MAX, 0x5000, 1 << 40]);
        assert_eq!(read("go1.24.11", &memory, 0x1000), None, "four KiB of text are not there");
        // A map whose bucket overflows into itself.
        let mut bucket = vec![0u64; 34];
        bucket[33] = 0x2000;
        memory.words(0x1000, &[0x1100]);
        memory.words(0x1100, &[3, 0, 0x2000, 0, 0, 0]);
        memory.words(0x2000, &bucket);
        assert_eq!(read("go1.23.9", &memory, 0x1000), None);
        assert!(memory.reads.get() < 1000);
    }
}

//! Pc-value tables: what holds for each run of a function's instructions, as two varints per run.
//!
//! Source of the format: `runtime/symtab.go` (`pcvalue`, `step`). A table is decoded from its start, so asking again and
//! again, as a chain of inlined calls does, would cost the table each time; decoding goes on from the nearest of the
//! places it came by before. Refuses tables over [`MAX_BYTES`], and runs that do not move the pc on: a table cannot
//! outlast the code it describes.

use std::ops::Range;

use super::{BinaryError, bytes::varint, elf::Image};

/// The largest real ones (generated init functions) are some hundred KiB.
const MAX_BYTES: u64 = 4 << 20;
/// Enough of nearly every table; of a longer one more is read.
const FIRST_READ_BYTES: u64 = 512;
/// Two varints, as long as they can be.
const MAX_RUN_BYTES: usize = 20;
/// Runs between two places where decoding can start again.
const STRIDE: u32 = 256;

/// One table of one function. Nothing is read before the first question.
pub(crate) struct PcValues<'i> {
    image: &'i Image,
    /// Where the table is; `None` where the function has none.
    address: Option<u64>,
    /// Where the last table ends.
    limit: u64,
    code: Range<u64>,
    quantum: u8,
    /// What was read of it.
    raw: Vec<u8>,
    /// Where decoding can start, in order.
    marks: Vec<Mark>,
}

/// A place between two runs.
#[derive(Clone, Copy)]
struct Mark {
    /// Bytes from the start of the table.
    at: usize,
    /// Where the run before it ends, and its value.
    pc: u64,
    value: i32,
}

impl<'i> PcValues<'i> {
    pub(crate) fn new(image: &'i Image, address: Option<u64>, limit: u64, code: Range<u64>, quantum: u8) -> Self {
        let start = Mark { at: 0, pc: code.start, value: -1 };
        Self { image, address, limit, code, quantum, raw: Vec::new(), marks: vec![start] }
    }

    /// The value at `pc`: -1 where the function has no such table, `None` behind its end.
    pub(crate) fn at(&mut self, pc: u64) -> Result<Option<i32>, BinaryError> {
        let Some(address) = self.address else { return Ok(Some(-1)) };
        let before = self.marks.partition_point(|mark| mark.pc <= pc);
        let Some(mut mark) = before.checked_sub(1).and_then(|last| self.marks.get(last)).copied() else {
            return Ok(None);
        };
        let beyond = before == self.marks.len();
        let mut runs = 0;
        while self.pass_run(address, &mut mark)? {
            if pc < mark.pc {
                return Ok(Some(mark.value));
            }
            runs += 1;
            if beyond && runs % STRIDE == 0 {
                self.marks.push(mark);
            }
        }
        Ok(None)
    }

    /// The highest value of any run. `None` where there is no run.
    pub(crate) fn highest(&mut self) -> Result<Option<i32>, BinaryError> {
        let (Some(address), Some(mut mark)) = (self.address, self.marks.first().copied()) else { return Ok(None) };
        let mut highest = None;
        while self.pass_run(address, &mut mark)? {
            highest = highest.max(Some(mark.value));
        }
        Ok(highest)
    }

    /// Moves `mark` behind the next run. `false` where the table, or the function, has ended.
    fn pass_run(&mut self, address: u64, mark: &mut Mark) -> Result<bool, BinaryError> {
        if mark.pc >= self.code.end {
            return Ok(false);
        }
        let malformed = || BinaryError::malformed("pc-value table", address);
        let room = self.limit.checked_sub(address).ok_or_else(malformed)?.min(MAX_BYTES);
        if mark.at + MAX_RUN_BYTES > self.raw.len() && (self.raw.len() as u64) < room {
            let more = room.min((self.raw.len() as u64 * 8).max(FIRST_READ_BYTES));
            self.raw = self.image.read_up_to(address, more as usize)?;
        }
        let number = |at: &mut usize| varint(&self.raw, at).and_then(|number| u32::try_from(number).ok());
        let delta = number(&mut mark.at).ok_or_else(malformed)?;
        if delta == 0 && mark.pc != self.code.start {
            return Ok(false);
        }
        // Zigzag: the lowest bit is the sign.
        let delta = (delta >> 1) as i32 ^ -((delta & 1) as i32);
        let step = number(&mut mark.at).filter(|&step| step > 0).ok_or_else(malformed)?;
        mark.value = mark.value.wrapping_add(delta);
        mark.pc = mark.pc.saturating_add(u64::from(step) * u64::from(self.quantum));
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::binary::testing::{Variant, toolchains};

    /// Asked in any order, a long table gives what one pass over it gives.
    #[test]
    #[ignore = "reads real Go programs: `cargo xtask test` builds them"]
    fn the_order_of_questions_does_not_matter() {
        for toolchain in toolchains() {
            let bytes = toolchain.program(Variant::Stripped).bytes.clone();
            let image = Image::parse(Arc::new(bytes)).expect("ELF");
            // Two functions' worth of crafted runs: +1 each byte of code, behind the file's own bytes.
            let runs = 3000u64;
            let table: Vec<u8> = (0..runs).flat_map(|_| [2, 1]).chain([0]).collect();
            let (mut file, segment) = (toolchain.program(Variant::Stripped).bytes.clone(), image.segments[0]);
            let at = segment.end() - table.len() as u64;
            let offset = (segment.offset + segment.file_bytes) as usize - table.len();
            file[offset..offset + table.len()].copy_from_slice(&table);
            let image = Image::parse(Arc::new(file)).expect("ELF");
            let new = || PcValues::new(&image, Some(at), segment.end(), 1000..1000 + runs, 1);
            let mut values = new();
            for pc in (1000..1000 + runs).rev().step_by(7).chain((1000..1000 + runs).step_by(11)) {
                assert_eq!(values.at(pc).expect("readable"), Some((pc - 1000) as i32));
                assert_eq!(new().at(pc).expect("readable"), Some((pc - 1000) as i32));
            }
            assert_eq!(values.at(999).expect("readable"), None);
            assert_eq!(values.at(1000 + runs).expect("readable"), None);
            assert_eq!(values.highest().expect("readable"), Some(runs as i32 - 1));
            assert_eq!(values.marks.len() as u64, 1 + (runs - 1) / u64::from(STRIDE));
        }
    }
}

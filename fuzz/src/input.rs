//! What a fuzzer's bytes mean: an image, and changes to its fields.
//!
//! The first byte chooses one of [`RECIPES`]; each change then is an operation, its operands in the bytes behind it. So
//! an input is some tens of bytes, and a mutation of it is another value in a field, not noise in padding. An input that
//! starts with [`RAW`] is a file as it stands.

use std::{io, sync::LazyLock};

use parkranger::{address::FileOffset, binary::Source};

use crate::image::{Image, RECIPES};

/// First byte of an input whose rest is a file as it stands.
pub const RAW: u8 = 0xff;
const MAX_CHANGES: usize = 64;
/// The largest size a change can claim: a sparse file costs nothing to make.
const MAX_CLAIMED_SHIFT: u32 = 44;

static IMAGES: LazyLock<Vec<Image>> = LazyLock::new(|| RECIPES.into_iter().map(Image::new).collect());

/// A file to parse, with the addresses worth asking about.
pub struct Input {
    bytes: Vec<u8>,
    len: u64,
    /// Addresses of functions, where the file was made from an image.
    pub places: Vec<u64>,
}

impl Source for Input {
    fn len(&self) -> u64 {
        self.len
    }

    /// Behind the bytes there is a hole, as in a sparse file.
    fn read_at(&self, offset: FileOffset, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.0.checked_add(buf.len() as u64).filter(|end| *end <= self.len);
        end.ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.fill(0);
        let rest = usize::try_from(offset.0).ok().and_then(|from| self.bytes.get(from..)).unwrap_or_default();
        let there = rest.len().min(buf.len());
        buf[..there].copy_from_slice(&rest[..there]);
        Ok(())
    }
}

/// Takes operands off the front of an input.
struct Operands<'a>(&'a [u8]);

impl Operands<'_> {
    fn number(&mut self, bytes: usize) -> Option<u64> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }
}

impl Input {
    /// The file that an input stands for.
    #[must_use]
    pub fn new(input: &[u8]) -> Self {
        let Some((&first, rest)) = input.split_first() else {
            return Self { bytes: Vec::new(), len: 0, places: Vec::new() };
        };
        if first == RAW {
            return Self { bytes: rest.to_vec(), len: rest.len() as u64, places: Vec::new() };
        }
        let image = &IMAGES[usize::from(first) % IMAGES.len()];
        let mut made = Self {
            bytes: image.bytes.clone(),
            len: image.bytes.len() as u64,
            places: image.functions.iter().flat_map(|&(start, end)| [start, start + 1, start + 9, end]).collect(),
        };
        let mut operands = Operands(rest);
        for _ in 0..MAX_CHANGES {
            if made.change(image, &mut operands).is_none() {
                break;
            }
        }
        made.len = made.len.max(made.bytes.len() as u64);
        made
    }

    fn change(&mut self, image: &Image, operands: &mut Operands<'_>) -> Option<()> {
        let operation = operands.number(1)?;
        match operation % 8 {
            0 => {
                let (at, value) = (operands.number(3)?, operands.number(1)?);
                self.write(at, 1, value);
            }
            operation @ 1..=4 => {
                let (at, size) = field(image, operands.number(2)?)?;
                let value = match operation {
                    1 => self.interesting(image, operands.number(1)?),
                    2 => operands.number(8)?,
                    3 => self.read(at, size).wrapping_add(i64::from(operands.number(1)? as u8 as i8) as u64),
                    _ => {
                        let (other, other_size) = field(image, operands.number(2)?)?;
                        self.read(other, other_size)
                    }
                };
                self.write(at, size, value);
            }
            5 => {
                let end = operands.number(3)? as usize;
                self.bytes.truncate(end);
                self.len = self.bytes.len() as u64;
            }
            6 => self.len = self.len.max(1 << (operands.number(1)? as u32 % MAX_CLAIMED_SHIFT)),
            _ => {
                let (from, to, size) = (operands.number(3)?, operands.number(3)?, operands.number(1)?);
                for at in 0..size {
                    let value = self.read(from + at, 1);
                    self.write(to + at, 1, value);
                }
            }
        }
        Some(())
    }

    fn read(&self, at: u64, size: u8) -> u64 {
        let at = at as usize;
        let bytes = self.bytes.get(at..at + usize::from(size)).unwrap_or_default();
        bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn write(&mut self, at: u64, size: u8, value: u64) {
        let at = at as usize;
        for (byte, value) in self.bytes.iter_mut().skip(at).take(usize::from(size)).zip(value.to_le_bytes()) {
            *byte = value;
        }
    }

    fn interesting(&self, image: &Image, number: u64) -> u64 {
        const VALUES: [u64; 24] = [
            0,
            1,
            2,
            8,
            0x40_0000,
            0x40_1000,
            u64::MAX,
            u64::MAX - 1,
            u64::MAX - 7,
            u64::MAX >> 1,
            1 << 63,
            1 << 40,
            1 << 32,
            u32::MAX as u64,
            (u32::MAX - 1) as u64,
            1 << 31,
            (1 << 31) - 1,
            u16::MAX as u64,
            1 << 15,
            1 << 20,
            1 << 24,
            0x8080_8080_8080_8080,
            0xffff_ffff_0000_0000,
            0x0000_0001_0000_0001,
        ];
        match VALUES.get(number as usize) {
            Some(value) => *value,
            None if number.is_multiple_of(2) => self.len.wrapping_sub(number / 2 % 4),
            None => image.functions.get(number as usize / 2 % image.functions.len()).map_or(0, |function| function.0),
        }
    }
}

fn field(image: &Image, number: u64) -> Option<(u64, u8)> {
    let count = image.fields.len() as u64;
    image.fields.get(usize::try_from(number.checked_rem(count)?).ok()?).copied()
}

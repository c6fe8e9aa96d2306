//! Debug information that a distribution keeps in a file of its own, and how a binary names that file.
//!
//! Either by the build id that both carry, or by name and checksum in `.gnu_debuglink` (GDB's manual, "Separate Debug
//! Files"). Refuses a file that is not the one named, or over [`MAX_BYTES`]. Which folders are searched is the host
//! stage's matter.

use std::sync::Arc;

use flate2::Crc;

use super::{Binary, BinaryError, NOTE_GNU_BUILD_ID, build_info, bytes::u32_at, elf::Image, source::Source};
use crate::address::FileOffset;

/// Debug files of the largest programs have some hundred MiB. A checksum reads all of it.
const MAX_BYTES: u64 = 1 << 30;
const MAX_NAME_BYTES: usize = 255;

/// What `.gnu_debuglink` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DebugLink {
    /// Name of the debug file, without a folder.
    pub name: String,
    /// CRC-32 of the whole file.
    pub crc: u32,
}

/// How a debug file proves that it is the right one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DebugProof {
    /// It carries the binary's build id.
    BuildId,
    /// Its contents have this CRC-32.
    Crc(u32),
}

impl Binary {
    /// The debug file that the binary names. `None` where it names none, or not by a plain name.
    #[must_use]
    pub fn debug_link(&self) -> Option<DebugLink> {
        const LIMIT_BYTES: u64 = 4096;
        let data = self.image().section_data(".gnu_debuglink", LIMIT_BYTES).ok()??;
        let end = data.iter().position(|&byte| byte == 0)?;
        let name = std::str::from_utf8(data.get(..end)?).ok()?;
        let plain = !matches!(name, "" | "." | "..") && name.len() <= MAX_NAME_BYTES && !name.contains('/');
        let crc = u32_at(&data, (end + 1).next_multiple_of(4))?;
        plain.then(|| DebugLink { name: name.to_owned(), crc })
    }

    /// Adds a debug file: its sections are used where the binary has none of that name.
    ///
    /// # Errors
    ///
    /// [`BinaryError::Unsupported`] for the file of another binary or a too large one; [`BinaryError::Malformed`],
    /// [`BinaryError::NotElf`], [`BinaryError::Read`].
    pub fn add_debug_file(&mut self, source: &Arc<dyn Source>, proof: DebugProof) -> Result<(), BinaryError> {
        if source.len() > MAX_BYTES {
            return Err(BinaryError::Unsupported { what: "a debug file larger than the limit" });
        }
        let image = Image::parse_debug_file(Arc::clone(source))?;
        if image.architecture != self.image().architecture {
            return Err(BinaryError::Unsupported { what: "a debug file for another architecture" });
        }
        match proof {
            DebugProof::BuildId => {
                let id = build_info::note(&image, b"GNU\0", NOTE_GNU_BUILD_ID);
                if id.is_none() || id.as_deref() != self.gnu_build_id() {
                    return Err(BinaryError::Unsupported { what: "a debug file with another build id" });
                }
            }
            DebugProof::Crc(crc) => {
                if checksum(&**source)? != crc {
                    return Err(BinaryError::Unsupported { what: "a debug file with another checksum" });
                }
            }
        }
        self.debug_file = Some(image);
        Ok(())
    }

    /// Whether a debug file was added.
    #[must_use]
    pub fn has_debug_file(&self) -> bool {
        self.debug_file.is_some()
    }

    /// The file that has a section of that name: the binary itself, else its debug file.
    pub(crate) fn image_with(&self, section: &str) -> Option<&Image> {
        [Some(self.image()), self.debug_file.as_ref()]
            .into_iter()
            .flatten()
            .find(|image| image.section(section).is_some())
    }
}

fn checksum(source: &dyn Source) -> Result<u32, BinaryError> {
    const PIECE_BYTES: u64 = 256 << 10;
    let mut crc = Crc::new();
    let mut at = 0;
    let mut buf = vec![0; PIECE_BYTES as usize];
    while at < source.len() {
        let size = (source.len() - at).min(PIECE_BYTES);
        let piece = buf.get_mut(..size as usize).unwrap_or_default();
        source.read_at(FileOffset(at), piece)?;
        crc.update(piece);
        at += size;
    }
    Ok(crc.sum())
}

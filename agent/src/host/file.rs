//! A binary's bytes, read when asked for. Never mapped: a file that shrinks under a mapping kills the reader.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{FileExt as _, MetadataExt as _},
    },
    path::PathBuf,
    sync::Arc,
};

use crate::{address::FileOffset, binary::Source};

/// Which file on disk: device and inode. A binary replaced on disk has another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// The file with that number on that device.
    #[must_use]
    pub const fn of(device: u64, inode: u64) -> Self {
        Self { device, inode }
    }
}

/// What tells a file from an earlier one with the same inode, and from itself before it was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileVersion {
    len: u64,
    changed: (i64, i64),
}

/// An open file as a source of bytes.
pub struct FileSource {
    file: Arc<File>,
    version: FileVersion,
}

impl FileSource {
    /// The bytes of `file` as long as it is now, and which file it is.
    ///
    /// # Errors
    ///
    /// Whatever `fstat` says.
    pub fn new(file: Arc<File>) -> io::Result<(Self, FileId)> {
        let metadata = file.metadata()?;
        let id = FileId::of(metadata.dev(), metadata.ino());
        let version = FileVersion { len: metadata.len(), changed: (metadata.ctime(), metadata.ctime_nsec()) };
        Ok((Self { file, version }, id))
    }

    /// Where it is now, as the kernel tells this process; `None` for a file that has been deleted.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        let path = fs::read_link(format!("/proc/self/fd/{}", self.file.as_raw_fd())).ok()?;
        (path.is_absolute() && self.file.metadata().is_ok_and(|metadata| metadata.nlink() > 0)).then_some(path)
    }

    /// Which version of the file it was when it was opened.
    #[must_use]
    pub fn version(&self) -> FileVersion {
        self.version
    }
}

impl Source for FileSource {
    fn len(&self) -> u64 {
        self.version.len
    }

    fn read_at(&self, offset: FileOffset, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset.0)
    }
}

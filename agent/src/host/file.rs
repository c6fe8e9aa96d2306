//! A binary's bytes, read when asked for. Never mapped: a file that shrinks under a mapping kills the reader.

use std::{
    fs::{self, File, Metadata},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{FileExt as _, MetadataExt as _},
    },
    path::PathBuf,
    sync::Arc,
};

use crate::{address::FileOffset, binary::Source};

/// A file as `stat` names it: device and inode. A binary replaced on disk has another one.
///
/// One file can have several names of this kind: each overlay mount of a lower folder gives its files another device. To
/// the kernel's uprobes they are one file all the same; `watch` finds that out, and goes by one of the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// The file with this inode number on this device.
    #[must_use]
    pub const fn of(device: u64, inode: u64) -> Self {
        Self { device, inode }
    }
}

/// Length and time of change: differs from that of an earlier file with the same inode number, and from the file's own
/// before it was written to. All names of one file have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileVersion {
    /// In bytes.
    len: u64,
    /// `st_ctime`, in s and ns.
    changed: (i64, i64),
}

impl FileVersion {
    /// The version of `file` now.
    ///
    /// # Errors
    ///
    /// Whatever `fstat` says.
    pub fn now(file: &File) -> io::Result<Self> {
        file.metadata().map(|metadata| Self::of(&metadata))
    }

    fn of(metadata: &Metadata) -> Self {
        Self { len: metadata.len(), changed: (metadata.ctime(), metadata.ctime_nsec()) }
    }
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
        let version = FileVersion::of(&metadata);
        Ok((Self { file, version }, id))
    }

    /// Its path now, as the kernel tells this process; `None` for a file that has been deleted.
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

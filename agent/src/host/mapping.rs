//! The files with code that a process has in its memory, from /proc/PID/maps, and the files themselves.

use std::{fs::File, io, sync::Arc};

use super::{HostError, Proc, process::host_error};
use crate::address::{FileOffset, RuntimeAddr};
use crate::printable;

/// Mappings of one process that are kept; the kernel's own limit is 65,530 by default.
const MAX_MAPPINGS: usize = 65_536;
/// Enough for that many, each with a path of ordinary length.
const MAX_MAPS_BYTES: u64 = 16 << 20;

/// A part of a file in a process's memory that holds code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its first address.
    pub start: RuntimeAddr,
    /// Just above its last address.
    pub end: RuntimeAddr,
    /// The file offset of its first byte.
    pub offset: FileOffset,
    /// Which file, as far as the kernel's memory management tells files apart.
    pub file: MappedFile,
    /// The file as the process sees it.
    pub path: String,
}

/// Device and inode as /proc/PID/maps has them. On some file systems (btrfs, overlayfs) `stat` says another device, so
/// this is no [`super::FileId`]; the two are not to be compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MappedFile {
    device: String,
    inode: u64,
}

impl Proc {
    /// The code that `pid` has mapped from files, in order of address.
    ///
    /// # Errors
    ///
    /// [`HostError::NoSuchProcess`], [`HostError::NotPermitted`], [`HostError::Unreadable`].
    pub fn code_mappings(&self, pid: u32) -> Result<Vec<Mapping>, HostError> {
        let maps = self.read_limited(pid, "maps", MAX_MAPS_BYTES)?;
        let maps = String::from_utf8_lossy(&maps);
        Ok(maps.lines().filter_map(parse).take(MAX_MAPPINGS).collect())
    }

    /// Opens the file behind a mapping: that very file, whatever its path leads to by now.
    ///
    /// # Errors
    ///
    /// [`HostError::NoSuchProcess`] also where the mapping is gone; [`HostError::NotPermitted`],
    /// [`HostError::Unreadable`].
    pub fn open_mapping(&self, pid: u32, mapping: &Mapping) -> Result<Arc<File>, HostError> {
        let path = self.path(pid, "map_files").join(format!("{:x}-{:x}", mapping.start.0, mapping.end.0));
        let open = || -> io::Result<File> {
            let file = File::open(&path)?;
            // Nothing of a device, pipe or folder is read.
            if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
        };
        open().map(Arc::new).map_err(|error| host_error(pid, &path, &error))
    }
}

/// `start-end perms offset dev inode path`; `None` for what is no code or of no file.
fn parse(line: &str) -> Option<Mapping> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let executable = fields.next()?.contains('x');
    let offset = fields.next()?;
    let device = fields.next()?;
    let inode = fields.next()?.parse().ok()?;
    let path = printable::name(fields.next()?.trim_start());
    if !executable || inode == 0 || !path.starts_with('/') {
        return None;
    }
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some(Mapping {
        start: RuntimeAddr(number(start)?),
        end: RuntimeAddr(number(end)?),
        offset: FileOffset(number(offset)?),
        file: MappedFile { device: device.to_owned(), inode },
        path: path.into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_files_is_listed() {
        let code = "00400000-00a00000 r-xp 00001000 fe:01 1234                       /srv/a b (deleted)";
        let mapping = parse(code).unwrap();
        assert_eq!(mapping.start, RuntimeAddr(0x40_0000));
        assert_eq!(mapping.offset, FileOffset(0x1000));
        assert_eq!(mapping.path, "/srv/a b (deleted)");
        assert_eq!(mapping.file, MappedFile { device: "fe:01".to_owned(), inode: 1234 });
        assert_eq!(parse("00a00000-00b00000 rw-p 00001000 fe:01 1234   /srv/a"), None);
        assert_eq!(parse("7ffff7fc1000-7ffff7fc3000 r-xp 00000000 00:00 0                          [vdso]"), None);
        assert_eq!(parse("nonsense"), None);
    }
}

//! The files with code that a process has in its memory, from /proc/PID/maps.

use std::fs;

use super::{HostError, Proc, process::host_error};
use crate::address::{FileOffset, RuntimeAddr};

/// Mappings of one process that are kept; the kernel's own limit is 65,530 by default.
const MAX_MAPPINGS: usize = 65_536;

/// A part of a file in a process's memory that holds code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its first address.
    pub start: RuntimeAddr,
    /// Just above its last address.
    pub end: RuntimeAddr,
    /// Where in the file it starts.
    pub offset: FileOffset,
    /// The file as the process sees it.
    pub path: String,
}

impl Proc {
    /// The code that `pid` has mapped from files, in order of address.
    ///
    /// # Errors
    ///
    /// [`HostError::NoSuchProcess`], [`HostError::NotPermitted`], [`HostError::Unreadable`].
    pub fn code_mappings(&self, pid: u32) -> Result<Vec<Mapping>, HostError> {
        let path = self.path(pid, "maps");
        let maps = fs::read(&path).map_err(|error| host_error(pid, &path, &error))?;
        let maps = String::from_utf8_lossy(&maps);
        Ok(maps.lines().filter_map(parse).take(MAX_MAPPINGS).collect())
    }
}

/// `start-end perms offset dev inode path`; `None` for what is no code or of no file.
fn parse(line: &str) -> Option<Mapping> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let executable = fields.next()?.contains('x');
    let offset = fields.next()?;
    let path = fields.nth(2)?.trim_start();
    if !executable || !path.starts_with('/') {
        return None;
    }
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some(Mapping {
        start: RuntimeAddr(number(start)?),
        end: RuntimeAddr(number(end)?),
        offset: FileOffset(number(offset)?),
        path: path.to_owned(),
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
        assert_eq!(parse("00a00000-00b00000 rw-p 00001000 fe:01 1234   /srv/a"), None);
        assert_eq!(parse("7ffff7fc1000-7ffff7fc3000 r-xp 00000000 00:00 0                          [vdso]"), None);
        assert_eq!(parse("nonsense"), None);
    }
}

//! The pages of a file that are to be probed, brought into the page cache first.
//!
//! The kernel copies the probed instruction from the page cache. Where the page is not there it reads it from the disk
//! while it holds the locks of probing, and kernels with CONFIG_EXT4_DEBUG warn about that
//! (`ext4_check_map_extents_env`), which is the end of a host with panic_on_warn.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use crate::address::FileOffset;

/// The longest instruction of x86-64, in bytes: it may end on the next page.
const INSTRUCTION: usize = 15;

/// Reads the instructions at `offsets`. A page can be reclaimed again before it is probed, which the kernel bears.
///
/// # Errors
///
/// An offset beyond the end of the file, or what reading it says.
pub(super) fn read_in(file: &File, offsets: impl Iterator<Item = FileOffset>) -> io::Result<()> {
    let mut instruction = [0; INSTRUCTION];
    for offset in offsets {
        if file.read_at(&mut instruction, offset.0)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    const PAGE: u64 = 4096;

    /// Pages of `file` that are in the page cache, of its first `pages`.
    fn cached(file: &File, pages: usize) -> Vec<bool> {
        let mut state = vec![0u8; pages];
        let length = pages * PAGE as usize;
        // SAFETY: a mapping of its own, not read, and taken away again; the vector has a byte for each page.
        #[allow(unsafe_code, reason = "mincore has no safe interface")]
        unsafe {
            let flags = libc::MAP_SHARED;
            let map = libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, flags, file.as_raw_fd(), 0);
            assert_ne!(map, libc::MAP_FAILED);
            assert_eq!(libc::mincore(map, length, state.as_mut_ptr()), 0);
            libc::munmap(map, length);
        }
        state.into_iter().map(|byte| byte & 1 == 1).collect()
    }

    #[test]
    fn both_pages_of_an_instruction_are_read_in() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![0x90; 64 * PAGE as usize]).unwrap();
        let file = File::open(&path).unwrap();
        rustix::fs::fsync(&file).unwrap();
        // Reads exactly what is asked for, so that read-ahead does not hide a page that was left out.
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let before = cached(&file, 64);
        if before[8..].iter().any(|cached| *cached) {
            // A file system in memory (tmpfs) has no other place for its pages.
            return;
        }
        read_in(&file, [FileOffset(20 * PAGE - 2), FileOffset(40 * PAGE)].into_iter()).unwrap();
        let now = cached(&file, 64);
        assert!(now[19] && now[20] && now[40] && !now[30], "{now:?}");
        assert!(read_in(&file, [FileOffset(64 * PAGE)].into_iter()).is_err());
    }
}

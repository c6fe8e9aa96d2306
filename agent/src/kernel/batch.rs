//! A whole map in a few system calls: BPF_MAP_LOOKUP_BATCH (kernel 5.6), which aya does not offer. Going from key to key
//! takes two calls per entry.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

/// Entries asked for at first; the kernel hands out whole buckets and says so where one does not fit.
const FIRST: u32 = 512;
const MOST: u32 = 1 << 16;
/// `bpf(2)`'s number for it (enum bpf_cmd of the kernel's include/uapi/linux/bpf.h).
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;

/// The kernel's `struct { … } batch` in `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    element_flags: u64,
    flags: u64,
}

/// Calls `take` with the bytes of every key and value. A value of a per-CPU map has one part for each possible CPU.
///
/// # Errors
///
/// The kernel's error; EINVAL and ENOTSUPP (524) where it cannot do this. `take` may have been called before.
pub(super) fn for_each(
    map: BorrowedFd<'_>,
    key_bytes: usize,
    value_bytes: usize,
    mut take: impl FnMut(&[u8], &[u8]),
) -> io::Result<()> {
    let mut room = FIRST;
    let mut keys = vec![0u8; room as usize * key_bytes];
    let mut values = vec![0u8; room as usize * value_bytes];
    // Where to go on; a hash map uses the first four bytes.
    let (mut position, mut next) = ([0u64; 8], [0u64; 8]);
    let mut begun = false;
    loop {
        let mut attributes = Attributes {
            in_batch: if begun { position.as_ptr().expose_provenance() as u64 } else { 0 },
            out_batch: next.as_mut_ptr().expose_provenance() as u64,
            keys: keys.as_mut_ptr().expose_provenance() as u64,
            values: values.as_mut_ptr().expose_provenance() as u64,
            count: room,
            map_fd: map.as_raw_fd().cast_unsigned(),
            ..Attributes::default()
        };
        #[allow(unsafe_code, reason = "no library offers this call")]
        // SAFETY: the kernel reads and writes the attributes, at most `count` keys and values of the map's own sizes,
        // which are those given, and at most eight bytes of a position.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut attributes, size_of::<Attributes>()) };
        let error = (result != 0).then(io::Error::last_os_error);
        let code = error.as_ref().and_then(io::Error::raw_os_error);
        if code == Some(libc::ENOSPC) && room < MOST {
            // A bucket with more entries than there is room for. Nothing of it was handed out.
            room *= 2;
            keys.resize(room as usize * key_bytes, 0);
            values.resize(room as usize * value_bytes, 0);
            continue;
        }
        match (error, code) {
            // The end, with the last entries.
            (Some(_), Some(libc::ENOENT)) | (None, _) => {}
            (Some(error), _) => return Err(error),
        }
        let found = attributes.count.min(room) as usize;
        for (key, value) in keys.chunks_exact(key_bytes).zip(values.chunks_exact(value_bytes)).take(found) {
            take(key, value);
        }
        if code == Some(libc::ENOENT) {
            return Ok(());
        }
        position = next;
        begun = true;
    }
}

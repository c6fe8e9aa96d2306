//! The kernel's own log: nothing that a test does may make the kernel warn.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;

use anyhow::{Result, ensure};

/// Beginnings of the reports of a kernel that found itself wrong.
const COMPLAINTS: [&str; 6] = ["WARNING: ", "BUG: ", "Oops", "general protection fault", "INFO: task ", "rcu_"];

/// The log from some moment on.
#[derive(Debug)]
pub struct KernelLog(Option<File>);

impl KernelLog {
    /// The log from now on; nothing for who may not read it.
    #[must_use]
    pub fn from_now_on() -> KernelLog {
        let log = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg");
        KernelLog(log.ok().and_then(|mut log| log.seek(SeekFrom::End(0)).is_ok().then_some(log)))
    }

    /// Fails where the kernel has complained since.
    ///
    /// # Errors
    /// With the kernel's words.
    pub fn has_no_complaint(&mut self) -> Result<()> {
        let Some(log) = &mut self.0 else { return Ok(()) };
        let mut said = Vec::new();
        // One record for each read, until there are no more.
        let mut record = [0; 8192];
        loop {
            match log.read(&mut record) {
                Ok(n) if n > 0 => said.push(String::from_utf8_lossy(&record[..n]).into_owned()),
                // Records that were overwritten before they were read: those after them are still there.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                _ => break,
            }
        }
        let complains = |record: &&String| COMPLAINTS.iter().any(|complaint| record.contains(complaint));
        let complaint = said.iter().position(|record| complains(&record));
        ensure!(complaint.is_none(), "the kernel complains: {}", said[complaint.unwrap_or(0)..].concat());
        Ok(())
    }
}

//! Probes on their way out, so that nothing can stop them half-way.
//!
//! Whoever closes the last descriptor of a probe has the kernel write the original byte back into every process that has
//! it. Where that thread is killed meanwhile (SIGKILL), the kernel gives up ("failed to unregister, leaking uprobe"), and
//! the breakpoint stays in until the process ends or another agent takes its own off there. A process that is past its
//! last system call is not interrupted any more: so a child that does nothing but end is given the descriptors, and
//! has the last of them, whatever becomes of the agent.

use std::{
    io,
    os::fd::AsRawFd as _,
    sync::{Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use aya::programs::uprobe::UProbeLink;
use rustix::process::{Pid, WaitOptions, waitpid};
use tracing::debug;

/// Links to close, whoever comes first.
static PENDING: Mutex<Vec<UProbeLink>> = Mutex::new(Vec::new());
/// One child at a time: it has every descriptor there is, those of another removal too.
static CLOSING: Mutex<()> = Mutex::new(());

/// Probes that are nobody's but the holder's: they go when it is dropped, which takes some tens of milliseconds.
pub(super) struct Links(pub(super) Vec<UProbeLink>);

impl Drop for Links {
    fn drop(&mut self) {
        put(&mut self.0);
        close_pending();
    }
}

fn put(links: &mut Vec<UProbeLink>) {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner).append(links);
}

/// Closes all that is pending. What another closes already is closed when this returns.
fn close_pending() {
    let _one = CLOSING.lock().unwrap_or_else(PoisonError::into_inner);
    let links = std::mem::take(&mut *PENDING.lock().unwrap_or_else(PoisonError::into_inner));
    if links.is_empty() {
        return;
    }
    match Holder::start() {
        Ok(holder) => {
            drop(links);
            holder.end();
        }
        Err(error) => {
            debug!("no process to take probes off: {error}");
            drop(links);
        }
    }
}

/// Probes on their way out. Dropping it waits until no process has them any more.
pub struct Removal(Option<JoinHandle<()>>);

impl Removal {
    pub(super) fn of(mut links: Links) -> Self {
        put(&mut links.0);
        // Without a thread they go here, when the links are dropped.
        Self(thread::Builder::new().name("detach".to_owned()).spawn(move || drop(links)).ok())
    }

    /// Whether no process has them any more.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // It does nothing that could panic.
            let _ = thread.join();
        }
    }
}

/// A child that has every descriptor we had when it was made, and ends when nobody can tell it to any more.
struct Holder {
    child: Pid,
    /// Open as long as it is to stay.
    stay: io::PipeWriter,
}

impl Holder {
    fn start() -> io::Result<Self> {
        let (told, stay) = io::pipe()?;
        let (told_fd, stay_fd) = (told.as_raw_fd(), stay.as_raw_fd());
        #[allow(unsafe_code, reason = "std starts programs only, and a program would cost more than all the rest")]
        // SAFETY: of a process with threads the child has but this one, and calls nothing but functions that are safe
        // there (signal-safety(7)): close, read, _exit, on its own copies of descriptors that are open. It is given
        // no signal that a handler of ours would take: they are blocked in this thread, which it is a copy of.
        let pid = unsafe {
            let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            let pid = libc::fork();
            if pid == 0 {
                libc::close(stay_fd);
                let mut byte = 0u8;
                libc::read(told_fd, (&raw mut byte).cast(), 1);
                libc::_exit(0);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
            pid
        };
        match Pid::from_raw(pid) {
            Some(child) if pid > 0 => Ok(Self { child, stay }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Has it end, and waits until it has: then nothing that it held is left.
    fn end(self) {
        drop(self.stay);
        while let Err(rustix::io::Errno::INTR) = waitpid(Some(self.child), WaitOptions::empty()) {}
    }
}

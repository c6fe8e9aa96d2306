//! Work that nothing can stop half-way.
//!
//! If a thread is killed (SIGKILL) while the kernel puts breakpoints into processes or writes the original bytes back,
//! the kernel gives up ("failed to unregister, leaking uprobe"), and breakpoints stay in until the process ends or another
//! agent takes its own off there. So a child does it: it shares memory and descriptors with us, as one of vfork(2) does,
//! but is another process to whoever kills the agent. It goes on to the end, and then nobody has the descriptors any more:
//! the kernel takes off what is left.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    thread,
};

use libc::{c_int, c_void};
use rustix::process::{Pid, WaitOptions, waitpid};
use tracing::debug;

/// The child's stack, in bytes.
const STACK: usize = 1 << 19;
/// If the agent is killed while another of its threads holds a lock that the child needs, nobody will ever release it: then
/// the child ends after so many seconds. What it does takes some hundred milliseconds at most.
const LONGEST: u32 = 60;

struct Job<F, T> {
    work: Option<F>,
    done: Option<thread::Result<T>>,
}

/// Does `work` to its end, even if the agent is killed meanwhile. This thread waits for it.
///
/// # Errors
///
/// The child was killed itself. Where none can be had, the work is done here.
pub(super) fn in_vforked_child<T>(work: impl FnOnce() -> T) -> io::Result<T> {
    let mut job = Job { work: Some(work), done: None };
    match run_in_child(&mut job) {
        Ok(child) => while let Err(rustix::io::Errno::INTR) = waitpid(Some(child), WaitOptions::empty()) {},
        Err(error) => debug!("no child to do it: {error}"),
    }
    match (job.done, job.work) {
        (Some(Ok(done)), _) => Ok(done),
        (Some(Err(panic)), _) => resume_unwind(panic),
        (None, Some(work)) => Ok(work()),
        (None, None) => Err(io::Error::other("the child that did it was killed")),
    }
}

/// Returns when the child has ended, or is about to: it cannot touch `job` any more.
fn run_in_child<F: FnOnce() -> T, T>(job: &mut Job<F, T>) -> io::Result<Pid> {
    let mut stack: Vec<u128> = Vec::with_capacity(STACK / size_of::<u128>());
    let top = stack.spare_capacity_mut().as_mut_ptr_range().end;
    #[allow(unsafe_code, reason = "std starts programs only")]
    // SAFETY: CLONE_VFORK suspends this thread until the child has ended, so the child is alone with this thread's
    // thread-local storage, `job` and `stack`, which both live until then; to the other threads' locks and to the allocator
    // it looks like this thread. The stack is aligned to 16 bytes and grows down from its end. The child is given no signal that
    // a handler of ours would take: they are blocked in this thread, whose mask it has.
    let pid = unsafe {
        let (mut blocked, mut before) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&raw mut blocked);
        libc::sigdelset(&raw mut blocked, libc::SIGALRM);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const blocked, &raw mut before);
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES | libc::SIGCHLD;
        let pid = libc::clone(in_child::<F, T>, top.cast(), flags, (&raw mut *job).cast());
        let error = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        if pid < 0 { Err(error) } else { Ok(pid) }
    };
    drop(stack);
    Pid::from_raw(pid?).ok_or_else(|| io::Error::other("clone gave no process id"))
}

extern "C" fn in_child<F: FnOnce() -> T, T>(job: *mut c_void) -> c_int {
    #[allow(unsafe_code, reason = "see above")]
    // SAFETY: it is the job that `run_in_child` gave, and nobody else's until this process has ended. Signal handlers are
    // the child's own copy.
    let job = unsafe {
        libc::signal(libc::SIGALRM, libc::SIG_DFL);
        libc::alarm(LONGEST);
        &mut *job.cast::<Job<F, T>>()
    };
    if let Some(work) = job.work.take() {
        job.done = Some(catch_unwind(AssertUnwindSafe(work)));
    }
    0
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        os::fd::{AsRawFd as _, OwnedFd},
        path::Path,
    };

    use super::*;

    #[test]
    fn what_the_child_makes_is_ours() {
        let (mut memory, us) = (vec![1], std::process::id());
        let (pid, file) = in_vforked_child(|| {
            memory.extend(0..10_000);
            let child = rustix::process::getpid().as_raw_nonzero().get();
            (child.cast_unsigned(), File::open("/dev/null").map(OwnedFd::from))
        })
        .unwrap();
        assert_ne!(pid, us);
        assert_eq!(memory.len(), 10_001);
        let file = file.unwrap();
        assert!(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())).exists());
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "nothing is left of the child");
    }

    #[test]
    fn what_the_child_closes_is_closed() {
        let file = File::open("/dev/null").unwrap();
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let before = std::fs::read_link(&path).unwrap();
        in_vforked_child(move || drop(file)).unwrap();
        assert_ne!(std::fs::read_link(&path).ok(), Some(before));
    }

    #[test]
    fn a_panic_is_ours_and_a_killed_child_an_error() {
        let panic = catch_unwind(|| in_vforked_child(|| panic!("deliberately"))).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"deliberately"));
        let killed = in_vforked_child(|| {
            let me = rustix::process::getpid();
            rustix::process::kill_process(me, rustix::process::Signal::KILL)
        });
        assert!(killed.is_err());
    }

    #[test]
    fn many_threads_have_it_done_at_once() {
        thread::scope(|scope| {
            for thread in 0..8_usize {
                scope.spawn(move || {
                    for round in 0..50 {
                        let made = in_vforked_child(|| vec![round; thread]).unwrap();
                        assert_eq!(made, vec![round; thread]);
                    }
                });
            }
        });
    }
}

//! Work that may never end, waited for no longer than one has patience.
//!
//! A process can make any read of its memory hang for ever: a page of it is held back through userfaultfd, or by a file system
//! of its own (FUSE). So such reads are made in a thread that nobody joins. One that hangs is left behind, and ends with its
//! read or with the agent.

use std::{
    io,
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

/// The answer of work that was begun.
#[derive(Debug)]
pub struct Answer<T>(Receiver<T>);

/// Begins `work` in a thread called `name`.
///
/// # Errors
///
/// Those of starting a thread: there can be no more.
pub fn begin<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<Answer<T>> {
    let (sender, answer) = channel();
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        // Nobody listens any more when patience was at its end.
        let _ = sender.send(work());
    })?;
    Ok(Answer(answer))
}

impl<T> Answer<T> {
    /// Waits for the answer. `None` where it did not come within `limit`.
    #[must_use]
    pub fn within(self, limit: Duration) -> Option<T> {
        self.0.recv_timeout(limit).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};

    use super::*;

    #[test]
    fn an_answer_comes_or_is_not_waited_for() {
        assert_eq!(begin("answers", || 7).unwrap().within(Duration::from_secs(60)), Some(7));
        let held_back = Arc::new(Barrier::new(2));
        let hangs = Arc::clone(&held_back);
        let answer = begin("hangs", move || hangs.wait().is_leader()).unwrap();
        assert_eq!(answer.within(Duration::from_millis(1)), None);
        held_back.wait();
    }
}

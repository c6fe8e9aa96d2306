//! The name a process goes by, and the user it runs as.

use nix::unistd::User;

use super::{HostError, Proc};

/// A comm has 15 characters (TASK_COMM_LEN); the status has a line for each CPU mask.
const MAX_COMM_BYTES: u64 = 64;
const MAX_STATUS_BYTES: u64 = 64 << 10;

impl Proc {
    /// The name of the first thread of `pid`, which programs may change.
    ///
    /// # Errors
    ///
    /// [`HostError::NoSuchProcess`], [`HostError::NotPermitted`], [`HostError::Unreadable`].
    pub fn comm(&self, pid: u32) -> Result<String, HostError> {
        let comm = self.read_limited(pid, "comm", MAX_COMM_BYTES)?;
        Ok(String::from_utf8_lossy(&comm).trim_end_matches('\n').to_owned())
    }

    /// The effective user id of `pid`, as the agent's own user namespace has it.
    ///
    /// # Errors
    ///
    /// [`HostError::NoSuchProcess`], [`HostError::NotPermitted`], [`HostError::Unreadable`].
    pub fn user(&self, pid: u32) -> Result<u32, HostError> {
        let status = String::from_utf8_lossy(&self.read_limited(pid, "status", MAX_STATUS_BYTES)?).into_owned();
        // Uid: real, effective, saved, file system
        let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        let effective = ids.and_then(|ids| ids.split_whitespace().nth(1)?.parse().ok());
        effective.ok_or_else(|| HostError::Unreadable {
            path: self.root().join(pid.to_string()).join("status"),
            why: "it has no user id".to_owned(),
        })
    }
}

/// The number of a user, by name.
///
/// # Errors
///
/// Why there is none, in one sentence.
pub fn user_id(name: &str) -> Result<u32, String> {
    match User::from_name(name) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err(format!("there is no user {name} on this host; a number does, too")),
        Err(error) => Err(format!("the user {name} cannot be looked up: {error}")),
    }
}

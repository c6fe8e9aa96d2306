//! What may be asked of processes' memory at one time: so much by one client, so much by all, one census of a process.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{guard::Client, problem::Problem};
use crate::host::Identity;

/// The counts.
pub(super) struct CensusLimits {
    slots: Arc<Semaphore>,
    clients: Arc<Mutex<HashMap<Client, usize>>>,
    processes: Mutex<HashMap<Identity, Arc<Semaphore>>>,
}

/// One request of a client, until it is dropped.
pub(super) struct Pass {
    clients: Arc<Mutex<HashMap<Client, usize>>>,
    client: Client,
}

impl CensusLimits {
    pub(super) fn new(censuses: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(censuses.max(1))), clients: Arc::default(), processes: Mutex::default() }
    }

    /// Lets a client in, if it has not too much under way already.
    pub(super) fn pass(&self, client: Client, most: usize) -> Result<Pass, Problem> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way = clients.entry(client).or_default();
        if *under_way >= most {
            return Err(Problem::busy(format!("{most} requests of yours for goroutines are under way: wait for them")));
        }
        *under_way += 1;
        Ok(Pass { clients: Arc::clone(&self.clients), client })
    }

    /// Waits for a turn to read some process.
    pub(super) async fn turn(&self, patience: Duration) -> Result<OwnedSemaphorePermit, Problem> {
        let turn = timeout(patience, Arc::clone(&self.slots).acquire_owned()).await;
        turn.ok().and_then(Result::ok).ok_or_else(|| Problem::busy("too many requests for goroutines are under way"))
    }

    /// Waits for the one census that this process may have at a time. What is returned goes with the thread that reads: a
    /// process that never lets itself be read has one thread wait for it, not one for each request.
    pub(super) async fn process(
        &self,
        identity: Identity,
        patience: Duration,
    ) -> Result<OwnedSemaphorePermit, Problem> {
        let turn = {
            let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody but this map has those that are not being read.
            processes.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(processes.entry(identity).or_insert_with(|| Arc::new(Semaphore::new(1))))
        };
        let turn = timeout(patience, turn.acquire_owned()).await;
        turn.ok()
            .and_then(Result::ok)
            .ok_or_else(|| Problem::busy(format!("the goroutines of process {} are being read already", identity.pid)))
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(under_way) = clients.get_mut(&self.client) {
            *under_way -= 1;
            if *under_way == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_so_much_under_way() {
        let limits = CensusLimits::new(1);
        let one = Client::User(1);
        let first = limits.pass(one, 2).ok().unwrap();
        let _second = limits.pass(one, 2).ok().unwrap();
        assert!(limits.pass(one, 2).is_err());
        assert!(limits.pass(Client::User(2), 2).is_ok());
        drop(first);
        assert!(limits.pass(one, 2).is_ok());
    }

    #[tokio::test]
    async fn a_process_is_read_once_at_a_time() {
        let limits = CensusLimits::new(1);
        let process = Identity { pid: 7, start_time: 1 };
        let reading = limits.process(process, Duration::ZERO).await.ok().unwrap();
        assert!(limits.process(process, Duration::ZERO).await.is_err());
        assert!(limits.process(Identity { start_time: 2, ..process }, Duration::ZERO).await.is_ok());
        drop(reading);
        assert!(limits.process(process, Duration::ZERO).await.is_ok());
    }
}

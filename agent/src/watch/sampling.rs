//! Sampling: opens and closes the slices of time in which events are counted where not all of them are.

use std::time::{Duration, Instant};

use tracing::warn;

use super::{
    WatchError,
    fidelity::FidelityControl,
    probes::Slices,
    shared::{Host, Shared},
};
use crate::{
    governor::{Fidelity, SLICE},
    host::FileId,
    kernel::{Attach, Count, Counters},
};

/// Time between two slices as a multiple of the average, at most.
const MOST_JITTER: f64 = 1.25;
/// Time to the next slice where nobody runs the binary, and where the probes could not be placed.
const NOBODY: Duration = Duration::from_millis(250);
const OUT_OF_REACH: Duration = Duration::from_secs(1);

impl FidelityControl {
    /// Opens and closes the slices that are due.
    pub(super) fn sample<K: Attach + Count, H: Host>(&mut self, shared: &mut Shared<K, H>) -> Result<(), WatchError> {
        let now = shared.host.now();
        let due = shared.probes.iter().filter(|(_, probes)| probes.next(SLICE).is_some_and(|next| next <= now));
        let due: Vec<(FileId, Slices)> = due.map(|(file, probes)| (*file, probes.slices)).collect();
        for (file, slices) in due {
            match slices {
                Slices::OpenSince(_) => self.close_slice(shared, file)?,
                Slices::NextAt(_) | Slices::None => self.open_slice(shared, file)?,
            }
        }
        Ok(())
    }

    /// Slices that are affordable more often by now do not wait for the next one.
    pub(super) fn advance_slices<K: Attach, H>(&self, shared: &mut Shared<K, H>, now: Instant) {
        for (file, probes) in &mut shared.probes {
            if let (Slices::NextAt(at), Some(every)) = (probes.slices, self.governor.slice_every(*file)) {
                probes.slices = Slices::NextAt(at.min(now + every.mul_f64(MOST_JITTER)));
            }
        }
    }

    fn open_slice<K: Attach + Count, H: Host>(
        &mut self,
        shared: &mut Shared<K, H>,
        file: FileId,
    ) -> Result<(), WatchError> {
        let now = shared.host.now();
        let nobody = shared.used_by(file).is_empty();
        let Some(probes) = shared.probes.get_mut(&file) else { return Ok(()) };
        if nobody {
            probes.slices = Slices::NextAt(now + NOBODY);
            return Ok(());
        }
        if let Err(why) = probes.open_slice(&mut shared.kernel) {
            warn!("{}: nothing is sampled for a while: {why}", probes.name);
            probes.close_slice(&mut shared.kernel);
            probes.slices = Slices::NextAt(now + OUT_OF_REACH);
            return Ok(());
        }
        // What was counted while the probes were placed is before the slice.
        let now = self.begin_slice(shared, file)?;
        if let Some(probes) = shared.probes.get_mut(&file) {
            probes.slices = Slices::OpenSince(now);
        }
        Ok(())
    }

    /// Tells the ledger that everything is counted from now on. Gives the time.
    pub(super) fn begin_slice<K: Attach + Count, H: Host>(
        &mut self,
        shared: &mut Shared<K, H>,
        file: FileId,
    ) -> Result<Instant, WatchError> {
        let counters = self.sampled_counters(shared, file)?;
        let used = shared.used_by(file);
        let now = shared.host.now();
        shared.ledger.begin_slice(&used, &counters, now);
        Ok(now)
    }

    fn close_slice<K: Attach + Count, H: Host>(
        &mut self,
        shared: &mut Shared<K, H>,
        file: FileId,
    ) -> Result<(), WatchError> {
        let used = shared.used_by(file);
        let counters = self.sampled_counters(shared, file)?;
        let now = shared.host.now();
        let Some(probes) = shared.probes.get_mut(&file) else { return Ok(()) };
        probes.close_slice(&mut shared.kernel);
        let costs = self.governor.costs();
        for (id, seen) in shared.ledger.close_slice(&used, &counters, costs, now) {
            self.governor.sampled(id, file, &seen);
        }
        let every = self.governor.slice_every(file).unwrap_or(SLICE);
        let next = now + self.jittered(every);
        if let Some(probes) = shared.probes.get_mut(&file) {
            probes.slices = Slices::NextAt(next);
        }
        Ok(())
    }

    /// The counters of what is sampled of a binary.
    fn sampled_counters<K: Attach + Count, H>(
        &self,
        shared: &Shared<K, H>,
        file: FileId,
    ) -> Result<Counters, WatchError> {
        Ok(match self.governor.fidelity(file) {
            Fidelity::Sparse => shared.kernel.counters()?,
            _ => Counters { waits: shared.kernel.waits()?, ..Counters::default() },
        })
    }

    /// A time between three and five quarters of `time`.
    fn jittered(&mut self, time: Duration) -> Duration {
        // Numerical Recipes' linear congruential generator: any will do.
        self.jitter = self.jitter.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        time.mul_f64(MOST_JITTER - 0.5 * f64::from(self.jitter) / f64::from(u32::MAX))
    }
}

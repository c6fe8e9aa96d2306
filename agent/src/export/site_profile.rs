//! Profiles by creation site, out of the ledger: births, exits and live goroutines, or parks by wait reason with the time
//! they took, where that is known.
//!
//! A sample's stack is what is true of every goroutine in it: the function with the `go` statement, and what that was inlined into.
//! Where callers are told apart, each has a sample of its own with the caller as the next frame, and what was born before has
//! one without. Counts are since attach; with an earlier snapshot they are since then.

use std::{
    collections::HashMap,
    io::{self, Write},
    time::{Duration, SystemTime},
};

use super::tables::Tables;
use crate::saved::profile::{Label, Line, Location, Mapping, Sample};
use crate::{
    ledger::Site,
    snapshot::{CallerSnapshot, ProcessSnapshot, SiteSnapshot},
    symbols::Frame,
};

/// The quantity that is profiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteProfile {
    /// Births, exits, live goroutines.
    Births,
    /// Parks, labelled with the wait reason, and how long they took while a story was told.
    Parks,
}

/// Writes the profile of a process at `time`, or of what happened since it was as `before`.
///
/// # Errors
///
/// Errors of writing to `out`.
pub fn write(
    profile: SiteProfile,
    process: &ProcessSnapshot,
    time: SystemTime,
    before: Option<(&ProcessSnapshot, Duration)>,
    out: &mut impl Write,
) -> io::Result<()> {
    let values: &[(&str, &str)] = match profile {
        SiteProfile::Births => &[("births", "count"), ("exits", "count"), ("live", "count")],
        SiteProfile::Parks if process.story.is_some() => &[("parks", "count"), ("delay", "nanoseconds")],
        SiteProfile::Parks => &[("parks", "count")],
    };
    let duration = before.map_or(Duration::ZERO, |(_, duration)| duration);
    let with_delay = process.story.is_some();
    let mut builder = Builder { tables: Tables::new(values, time, duration), locations: HashMap::new(), with_delay };
    builder.mapping(process.library.as_deref().unwrap_or(&process.exe));
    let earlier: HashMap<Site, &SiteSnapshot> =
        before.map(|(before, _)| before.sites.iter().map(|site| (site.id, site)).collect()).unwrap_or_default();
    for site in &process.sites {
        builder.site(profile, site, earlier.get(&site.id).copied());
    }
    builder.tables.write(out)
}

struct Builder {
    tables: Tables,
    locations: HashMap<Line, u64>,
    /// Parks come with the time they took, as far as that is known.
    with_delay: bool,
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The one mapping that all locations are in.
const MAPPING: u64 = 1;

impl Builder {
    /// Names the binary. Locations have names and no addresses.
    fn mapping(&mut self, path: &str) {
        let filename = self.tables.string(path);
        self.tables.profile.mapping.push(Mapping {
            id: MAPPING,
            filename,
            has_functions: true,
            has_filenames: true,
            has_line_numbers: true,
            has_inline_frames: true,
            ..Mapping::default()
        });
    }

    fn site(&mut self, profile: SiteProfile, site: &SiteSnapshot, before: Option<&SiteSnapshot>) {
        match profile {
            SiteProfile::Births => {
                let (births, exits, live) = before.map_or((0, 0, 0), |site| (site.births, site.exits, site.live));
                let values = |(births, exits, live): (u64, u64, i64), before: (u64, u64, i64)| {
                    let births = number(births.saturating_sub(before.0));
                    vec![births, number(exits.saturating_sub(before.1)), live.saturating_sub(before.2)]
                };
                if site.callers.is_empty() {
                    let all = values((site.births, site.exits, site.live), (births, exits, live));
                    return self.sample(site, &[], all, &[]);
                }
                let of = |caller: &CallerSnapshot| (caller.births, caller.exits, caller.live().cast_signed());
                for caller in &site.callers {
                    let same = |other: &&CallerSnapshot| other.address == caller.address;
                    let earlier = before.and_then(|site| site.callers.iter().find(same)).map_or((0, 0, 0), of);
                    self.sample(site, &caller.frames, values(of(caller), earlier), &[]);
                }
                let earlier = before.map_or((0, 0, 0), SiteSnapshot::without_caller);
                self.sample(site, &[], values(site.without_caller(), earlier), &[]);
            }
            SiteProfile::Parks => {
                for (reason, parks) in &site.waits {
                    let earlier = before.and_then(|site| site.waits.get(reason)).copied().unwrap_or_default();
                    let delay = |site: &SiteSnapshot| site.waited.get(reason).map_or(0, |spent| spent.ns);
                    let delay = delay(site).saturating_sub(before.map_or(0, delay));
                    self.parks(site, parks.saturating_sub(earlier), delay, reason);
                }
                // Parks whose reason the kernel side could not keep.
                let unknown = |site: &SiteSnapshot| site.parks.saturating_sub(site.waits.values().sum());
                let rest = unknown(site).saturating_sub(before.map_or(0, unknown));
                self.parks(site, rest, 0, "unknown");
            }
        }
    }

    fn parks(&mut self, site: &SiteSnapshot, parks: u64, delay_ns: u64, reason: &str) {
        let delay = self.with_delay.then(|| number(delay_ns));
        self.sample(site, &[], [number(parks)].into_iter().chain(delay).collect(), &[("wait reason", reason)]);
    }

    /// A sample of a site's goroutines that `caller` had made, or of all.
    fn sample(&mut self, site: &SiteSnapshot, caller: &[Frame], value: Vec<i64>, labels: &[(&str, &str)]) {
        if value.iter().all(|value| *value == 0) {
            return;
        }
        let mut location_id = Vec::new();
        if site.own_frames().is_empty() {
            location_id.push(self.location(&site.function, &site.file, site.line));
        }
        for frame in site.own_frames().iter().chain(caller) {
            location_id.push(self.location(frame.symbol(), &frame.file, frame.line));
        }
        let start = Some(("starts", site.start_function.as_str())).filter(|(_, start)| !start.is_empty());
        let label = start.iter().chain(labels);
        let label = label.map(|(key, value)| Label { key: self.tables.string(key), str: self.tables.string(value) });
        let label = label.collect();
        self.tables.profile.sample.push(Sample { location_id, value, label });
    }

    fn location(&mut self, function: &str, file: &str, line: u32) -> u64 {
        let line = self.tables.line(function, file, line);
        let next = self.locations.len() as u64 + 1;
        let id = *self.locations.entry(line).or_insert(next);
        if id == next {
            self.tables.profile.location.push(Location { id, mapping_id: MAPPING, address: 0, line: vec![line] });
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use prost::Message as _;

    use super::*;
    use crate::{saved::profile::Profile, snapshot::testing::process};

    #[test]
    fn a_difference_is_by_site_even_where_two_have_one_name() {
        let before = process(&[(1, 100, 100), (1001, 3, 3)]);
        let after = process(&[(1, 110, 110), (1001, 4, 4)]);
        let mut written = Vec::new();
        let earlier = Some((&before, Duration::from_secs(1)));
        write(SiteProfile::Births, &after, SystemTime::UNIX_EPOCH, earlier, &mut written).unwrap();
        let mut bytes = Vec::new();
        GzDecoder::new(written.as_slice()).read_to_end(&mut bytes).unwrap();
        let profile = Profile::decode(bytes.as_slice()).unwrap();
        let values: Vec<&[i64]> = profile.sample.iter().map(|sample| sample.value.as_slice()).collect();
        assert_eq!(values, [[10, 0, 10], [1, 0, 1]]);
    }
}

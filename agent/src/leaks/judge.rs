//! Weighs what speaks for a leak and against.

use std::{sync::Arc, time::Duration};

use super::{
    Circumstances, Evidence, Finding, Pattern,
    evidence::{Crowd, Group, Waiting},
    name,
    trend::{poisson_bounds, theil_sen},
};
use crate::history::place::Wait;

/// Odds of a group of goroutines of which nothing else is known.
const PRIOR: f64 = -2.6;
const HOUR: f64 = 3600.0;

/// Evidence as it is gathered.
#[derive(Default)]
pub(super) struct Scales {
    evidence: Vec<Evidence>,
}

impl Scales {
    pub(super) fn add(&mut self, weight: f64, says: impl Into<String>) {
        self.evidence.push(Evidence { says: says.into(), weight });
    }

    fn confidence(&self) -> f64 {
        let odds = PRIOR + self.evidence.iter().map(|one| one.weight).sum::<f64>();
        // Nothing that was only watched is certain.
        (1.0 / (1.0 + (-odds).exp())).min(0.99)
    }
}

/// Finding about a group. `None` where there is nothing to say.
pub(super) fn finding(
    crowd: &Crowd<'_>,
    group: &Group<'_>,
    all: &[Group<'_>],
    circumstances: Circumstances,
) -> Option<Finding> {
    let waiting = crowd.waiting(group);
    let pattern = name::pattern(crowd, group, &waiting)?;
    let mut scales = Scales::default();
    growth(&mut scales, crowd, group, circumstances);
    if pattern != Pattern::Finalizer {
        number(&mut scales, group, pattern);
    }
    objects(&mut scales, crowd, group, &waiting);
    name::particular(&mut scales, crowd, group, all, pattern);
    long_run(&mut scales, crowd, group);
    Some(shown(crowd, group, &waiting, pattern, &scales))
}

/// Reasons from those that came to stay and went, and how that was spread over time.
fn growth(scales: &mut Scales, crowd: &Crowd<'_>, group: &Group<'_>, circumstances: Circumstances) {
    let (came, went) = (group.arrivals.len(), group.departures);
    let watched = crowd.watched.saturating_sub(crowd.rest).as_secs_f64();
    let seconds = crowd.watched.as_secs();
    let rest = crowd.rest.as_secs();
    let net = (came as f64 - went as f64) / (came as f64 + went as f64).max(1.0).sqrt();
    if came > 0 && went == 0 {
        let weight = (0.6 + 0.9 * (came as f64).ln()).min(3.2);
        scales.add(weight, format!("{came} came in {seconds} s and none of those here for {rest} s went"));
    } else if came > 0 && net > 2.0 {
        scales.add((0.5 * net).min(2.2) - 0.6, format!("{came} came in {seconds} s and {went} went"));
    } else if went > 0 {
        scales.add(-3.0, format!("{came} came to stay in {seconds} s and {went} went that had stayed as long"));
    } else {
        let weight = if seconds >= 45 { -1.0 } else { -0.6 };
        scales.add(weight, format!("none came in {seconds} s"));
    }
    let mut over = false;
    if came >= 4 && watched > 0.0 {
        let begun = crowd.history.begun().unwrap_or_default();
        let mut thirds = [0usize; 3];
        for at in &group.arrivals {
            let part = at.saturating_sub(begun).as_secs_f64() / watched * 3.0;
            if let Some(count) = thirds.get_mut((part as usize).min(2)) {
                *count += 1;
            }
        }
        let [first, second, last] = thirds;
        let gone_quiet = last == 0 && (came >= 6 || second == 0);
        let span = group.arrivals.last().zip(group.arrivals.first()).map(|(last, first)| last.saturating_sub(*first));
        if gone_quiet {
            over = true;
            scales.add(-2.6, "they came in the beginning and then no more");
        } else if watched >= 10.0 && span.is_some_and(|span| span.as_secs_f64() < 0.15 * watched) {
            over = true;
            scales.add(-2.2, "they came all at once");
        } else if came >= 10 && (last as f64) < 0.4 * first as f64 {
            scales.add(-1.2, "fewer and fewer come");
        } else if first > 0 && second > 0 && last > 0 {
            scales.add(0.8, "they came all the time");
        }
    }
    let old: Vec<u64> =
        group.members.iter().filter(|(_, one)| one.from_before && one.runs == 0).map(|(goid, _)| *goid).collect();
    if old.len() >= 4 {
        let parts = crowd.spread(old.iter().copied());
        let born = crowd.history.first_goids();
        // What is over was going on before the watch, too.
        if parts >= 4 && old.len() >= 5 && !over {
            scales.add(1.3, format!("{} from before the watch were begun at quite different times", old.len()));
        } else if parts == 1 && born >= 16 * old.len() as u64 {
            scales.add(-1.3, format!("{} from before the watch were begun together", old.len()));
        }
    }
    let age = circumstances.process_age.map(|age| age + crowd.watched);
    if age.is_some_and(|age| age < Duration::from_secs(30)) && came > 0 {
        scales.add(-0.4, "the process has only begun");
    }
}

fn number(scales: &mut Scales, group: &Group<'_>, pattern: Pattern) {
    let sure_alone = matches!(pattern, Pattern::NilChannel | Pattern::EmptySelect);
    match group.members.len() {
        1 if sure_alone => scales.add(-1.5, "it is only one"),
        1 => scales.add(-2.4, "it is only one"),
        2 | 3 if !sure_alone => scales.add(-0.6, "they are few"),
        20..100 => scales.add(0.3, "they are many"),
        100.. => scales.add(0.6, "they are very many"),
        _ => {}
    }
}

/// Reasons from the objects that they wait on, and from who is on the other side.
fn objects(scales: &mut Scales, crowd: &Crowd<'_>, group: &Group<'_>, waiting: &Waiting) {
    let grows = !group.arrivals.is_empty();
    let wait = group.place.place.wait;
    let most = |count: usize| count * 10 >= waiting.known * 9 && waiting.known > 0;
    let alone = group.members.len() > 1;
    if group.moves {
        scales.add(-0.9, "they do move");
        return;
    }
    match wait {
        Wait::NilChannel | Wait::EmptySelect => scales.add(4.6, "that never ends"),
        Wait::Send if most(waiting.opposite) => scales.add(-1.0, "somebody receives from their channels"),
        Wait::Send if most(waiting.private) => {
            scales.add(2.3, "each sends to a channel of its own and nobody receives");
        }
        Wait::Send => scales.add(1.0, "nobody receives from their channel"),
        Wait::Receive | Wait::Select if most(waiting.timed) => scales.add(-1.5, "a timer will wake them"),
        Wait::Receive | Wait::Select if most(waiting.shared) && waiting.objects <= 3 && alone => {
            let weight = if grows { -0.5 } else { -1.6 };
            scales.add(weight, "all wait on the same, as a pool or an audience does");
        }
        Wait::Receive if most(waiting.private) => scales.add(0.6, "each receives from a channel of its own"),
        Wait::Select if most(waiting.private) => scales.add(0.6, "each has a channel of its own among its cases"),
        wait if wait.is_lock() => {
            let seconds = crowd.rest.as_secs();
            scales.add(2.2, format!("a lock is not waited for {seconds} s where all goes well"));
            if waiting.known > 1 && waiting.objects == 1 {
                scales.add(0.8, "all wait for the same lock");
            }
        }
        Wait::Cond => scales.add(if grows { -0.2 } else { -1.6 }, "a condition may be waited for long"),
        Wait::Sleep => scales.add(-0.8, "they sleep, and will go on"),
        Wait::Syscall => scales.add(-0.4, "they are in a system call"),
        _ => {}
    }
    if matches!(wait, Wait::Receive | Wait::Select | Wait::WaitGroup) && crowd.knows_parents() {
        let (with, moving) = crowd.children(group);
        let members = group.members.len();
        if moving * 10 >= members * 7 {
            scales.add(-1.6, "goroutines they started are at work");
        } else if wait == Wait::WaitGroup && with == 0 {
            scales.add(1.6, "no goroutine they started is alive");
        } else if with * 10 >= members * 7 {
            scales.add(0.2, "goroutines they started do not move either");
        }
    }
    let median = median_rest(crowd, group);
    if median >= Duration::from_secs(600) {
        scales.add(0.6, "half of them have not moved for ten minutes");
    } else if median >= Duration::from_secs(60) {
        scales.add(0.3, "half of them have not moved for a minute");
    }
}

/// Reasons from the numbers of hours: a step that stays, a wave.
fn long_run(scales: &mut Scales, crowd: &Crowd<'_>, group: &Group<'_>) {
    /// Before that the arrivals themselves say more.
    const LONG: Duration = Duration::from_secs(1200);
    if crowd.watched < LONG {
        return;
    }
    let all: Vec<(f64, f64)> =
        group.site.series.points().map(|point| (point.time.as_secs_f64(), point.live as f64)).collect();
    let Some(slope) = theil_sen(&all) else { return };
    let per_hour = slope.median * HOUR;
    let low = slope.low * HOUR;
    let half = crowd.history.now().as_secs_f64() - crowd.watched.as_secs_f64() / 2.0;
    let late: Vec<(f64, f64)> = all.iter().copied().filter(|(time, _)| *time >= half).collect();
    let late = theil_sen(&late).map_or(0.0, |late| late.median * HOUR);
    if low > 0.0 && late > 0.3 * per_hour {
        scales.add(1.2, format!("their number has grown by {per_hour:.0} an hour, and by {low:.0} at the least"));
    } else if low > 0.0 || late <= 0.3 * per_hour {
        scales.add(-2.0, "their number does not grow any more");
    } else {
        scales.add(-1.5, "their number goes up and down");
    }
}

fn median_rest(crowd: &Crowd<'_>, group: &Group<'_>) -> Duration {
    let now = crowd.history.now();
    let mut rests: Vec<Duration> = group.members.iter().map(|(_, one)| now.saturating_sub(one.since)).collect();
    rests.sort_unstable();
    rests.get(rests.len() / 2).copied().unwrap_or_default()
}

fn shown(crowd: &Crowd<'_>, group: &Group<'_>, waiting: &Waiting, pattern: Pattern, scales: &Scales) -> Finding {
    let stride = crowd.history.stride();
    let now = crowd.history.now();
    let begun = crowd.history.begun().unwrap_or_default();
    let arrived = group.arrivals.len() as u64;
    let hours = crowd.watched.saturating_sub(crowd.rest).as_secs_f64().max(1.0) / HOUR;
    let (low, high) = poisson_bounds(arrived);
    let scale = stride as f64 / hours;
    let came = |one: &crate::history::Followed| if group.moves { one.first_seen } else { one.since };
    let first = group.members.iter().map(|(_, one)| came(one)).min().unwrap_or(now);
    let mut evidence = scales.evidence.clone();
    evidence.sort_by(|one, other| other.weight.abs().total_cmp(&one.weight.abs()));
    Finding {
        pattern,
        site: group.site.site.clone(),
        place: group.place.place.clone(),
        blamed: name::blamed(crowd, pattern),
        goroutines: group.members.len() as u64 * stride,
        arrived: arrived * stride,
        departed: group.departures * stride,
        watched: crowd.watched,
        per_hour: arrived as f64 * scale,
        per_hour_bounds: (low.max(0.0) * scale, high * scale),
        since: now.saturating_sub(first),
        since_is_bound: first <= begun && group.members.iter().any(|(_, one)| one.from_before),
        median_rest: median_rest(crowd, group),
        stack_bytes: crowd.stack_bytes(group) * stride,
        waits_on: waits_on(waiting),
        confidence: scales.confidence(),
        evidence,
        example: Arc::clone(&group.place.example),
        goids: group.members.iter().map(|(goid, _)| *goid).take(5).collect(),
    }
}

fn waits_on(waiting: &Waiting) -> String {
    let Some(object) = waiting.example else { return String::new() };
    let several = waiting.objects > 1;
    let which = if several { format!("{} different", waiting.objects) } else { "the same".to_owned() };
    match object.channel {
        Some(channel) => {
            let what = if several { "channels" } else { "channel" };
            let closed = if channel.closed { ", closed" } else { "" };
            format!("{which} {what}, as {:#x} ({} of {} elements{closed})", object.address, channel.len, channel.cap)
        }
        None => format!("{which} lock{}, as {:#x}", if several { "s" } else { "" }, object.address),
    }
}

//! Gives a group of goroutines the name of its shape, and weighs what only that shape knows.

use super::{
    Pattern,
    evidence::{Crowd, Group, Waiting},
    judge::Scales,
};
use crate::history::{
    callers::Caller,
    place::{Owner, Site, Wait, owner, place},
};

/// The shape. `None` where the goroutines belong to others that speak for them, or are known to be well.
pub(super) fn pattern(crowd: &Crowd<'_>, group: &Group<'_>, waiting: &Waiting) -> Option<Pattern> {
    let site = &group.site.site;
    let place = &group.place.place;
    let example = &group.place.example;
    let start = &*site.start_function;
    let calls = |name: &str| example.frames.iter().any(|frame| frame.function.starts_with(name));
    if group.site.system {
        let finalizes = matches!(start, "runtime.runfinq" | "runtime.runFinalizers" | "runtime.runCleanups");
        // It waits for finalizers in the runtime itself; in anything else it is in one.
        let in_one = example.frames.iter().any(|frame| !frame.function.starts_with("runtime."));
        return (finalizes && in_one && !group.moves).then_some(Pattern::Finalizer);
    }
    match start {
        // The first goroutine; the other half of a connection; what watches a handler's connection, or a signal.
        "runtime.main"
        | "net/http.(*persistConn).writeLoop"
        | "net/http.(*connReader).backgroundRead"
        | "os/signal.loop" => {
            return None;
        }
        "net/http.(*persistConn).readLoop" => {
            let in_body = place.wait == Wait::Select;
            return Some(if in_body { Pattern::ResponseBody } else { Pattern::IdleConnection });
        }
        _ => {}
    }
    if site.created_at.function.is_empty() && example.frames.iter().any(|frame| frame.function == "main.main") {
        return None;
    }
    if calls("database/sql.(*Rows).awaitDone") || calls("database/sql.(*Tx).awaitDone") {
        return Some(Pattern::DatabaseRows);
    }
    if calls("database/sql.(*DB).conn") && !calls("database/sql.(*DB).connectionOpener") && place.wait == Wait::Select {
        return Some(Pattern::DatabasePool);
    }
    if site.created_at.function.starts_with("context.(*cancelCtx).propagateCancel")
        || site.created_at.function.starts_with("context.propagateCancel")
    {
        return Some(Pattern::Context);
    }
    if site.created_at.function.starts_with("time.goFunc") || calls("time.goFunc") || start == "time.goFunc" {
        return Some(Pattern::AfterFunc);
    }
    // A server's connection that waits for the next request.
    let serves = calls("net/http.(*conn).serve") && owner_of(group) == Owner::Standard;
    if serves {
        return None;
    }
    let timed = waiting.timed > 0 && waiting.timed * 2 >= waiting.known;
    Some(match place.wait {
        _ if group.moves => match place.wait {
            Wait::Running => Pattern::Spinning,
            Wait::Sleep => Pattern::TimerLoop,
            Wait::Receive | Wait::Select if timed => Pattern::TimerLoop,
            _ => Pattern::Growth,
        },
        Wait::NilChannel => Pattern::NilChannel,
        Wait::EmptySelect => Pattern::EmptySelect,
        Wait::Select | Wait::Io if calls("net/http.(*persistConn).roundTrip") || calls("net/http.(*Client).") => {
            Pattern::StuckUpstream
        }
        Wait::Receive | Wait::Select if timed => Pattern::TimerLoop,
        Wait::Send => Pattern::AbandonedSender,
        Wait::Receive => Pattern::MissingSender,
        Wait::Select => Pattern::StuckSelect,
        Wait::Mutex | Wait::ReadLock | Wait::WriteLock if crowd.in_rings(group) * 2 >= group.members.len() => {
            Pattern::LockOrder
        }
        Wait::Mutex | Wait::ReadLock | Wait::WriteLock => Pattern::HeldLock,
        Wait::WaitGroup => Pattern::WaitGroup,
        Wait::Cond => Pattern::Condition,
        Wait::Io => Pattern::NetworkRead,
        Wait::Sleep => Pattern::TimerLoop,
        Wait::Syscall => Pattern::Syscall,
        Wait::Running => Pattern::Spinning,
        Wait::Semaphore | Wait::Other => Pattern::Growth,
    })
}

fn owner_of(group: &Group<'_>) -> Owner {
    let frames = group.place.example.frames.iter();
    let owners = frames.map(|frame| owner(&frame.function, ""));
    let mut most = Owner::Standard;
    for owner in owners {
        match owner {
            Owner::Own => return Owner::Own,
            Owner::Dependency => most = Owner::Dependency,
            Owner::Standard => {}
        }
    }
    most
}

/// Reasons that only a shape has.
pub(super) fn particular(
    scales: &mut Scales,
    crowd: &Crowd<'_>,
    group: &Group<'_>,
    all: &[Group<'_>],
    pattern: Pattern,
) {
    match pattern {
        Pattern::Finalizer => {
            scales.add(5.2, format!("it has been in one finalizer for {} s: none else can run", crowd.rest.as_secs()));
        }
        Pattern::ResponseBody => response_bodies(scales, crowd, group),
        // A connection that waits for an answer waits for the same as one that is idle.
        Pattern::IdleConnection
            if crowd.calling(&["net/http.(*persistConn).roundTrip"]) * 2 >= group.members.len() as u64 =>
        {
            scales.add(-4.0, "they are in use: as many goroutines wait for answers");
        }
        Pattern::IdleConnection if group.arrivals.len() >= 6 && group.departures == 0 => {
            scales.add(0.2, "new connections are opened while others are idle");
        }
        Pattern::IdleConnection => scales.add(-1.4, "connections are kept to be used again"),
        Pattern::DatabaseRows => scales.add(1.2, "each stands for rows or a transaction that is open"),
        Pattern::Context => scales.add(1.0, "each stands for a context that was not cancelled"),
        Pattern::AfterFunc if !group.moves => scales.add(0.8, "a timer's function should return at once"),
        Pattern::HeldLock => holder(scales, crowd, group, all),
        Pattern::LockOrder => {
            scales.add(0.8, "each waits for a lock whose address another has on its stack, who waits for its own");
        }
        _ => {}
    }
}

/// A body that somebody reads is not left open.
fn response_bodies(scales: &mut Scales, crowd: &Crowd<'_>, group: &Group<'_>) {
    let readers = crowd.calling(&["net/http.(*bodyEOFSignal).Read"]);
    let open = group.members.len() as u64;
    if readers >= open {
        scales.add(-2.5, format!("{readers} goroutines read bodies of responses"));
    } else if readers * 2 < open {
        scales.add(2.2, format!("{open} responses have bodies that are open and {readers} goroutines read one"));
    }
}

/// Somebody who waits for something else in the methods of the same type may hold the lock.
fn holder(scales: &mut Scales, crowd: &Crowd<'_>, group: &Group<'_>, all: &[Group<'_>]) {
    if let Some(member) = crowd.holder(group)
        && let Some(kind) = crowd.population.kind(member)
    {
        let place = place(kind, &crowd.population.main_module);
        let (at, state) = (place.at.short(), &kind.state);
        scales.add(
            0.6,
            format!("who holds it may be goroutine {} in {at} [{state}]: the lock is on its stack", member.goid),
        );
        return;
    }
    let waits_in = &group.place.place.at.function;
    let receiver = waits_in.rsplit_once('.').map(|(receiver, _)| receiver).filter(|receiver| receiver.ends_with(')'));
    let Some(receiver) = receiver else { return };
    let blocked = all.iter().find(|other| {
        let place = &other.place.place;
        let inside = other.place.example.frames.iter().any(|frame| frame.function.starts_with(receiver));
        !other.moves && !place.wait.is_lock() && inside && place.wait != Wait::Other
    });
    if let Some(other) = blocked {
        scales.add(0.5, format!("who holds it may be {}, which itself waits", other.place.place.at.short()));
    }
}

/// Lines that may be the cause where the goroutines' own site is none.
pub(super) fn blamed(crowd: &Crowd<'_>, pattern: Pattern) -> Vec<(String, f64)> {
    const MOST: usize = 3;
    if !matches!(pattern, Pattern::ResponseBody | Pattern::IdleConnection) {
        return Vec::new();
    }
    let ranked = crowd.history.callers().ranked();
    if ranked.is_empty() {
        // Not the line, but the goroutine it is in.
        let words = |site: &Site| {
            let file = site.created_at.file.rsplit('/').next().unwrap_or_default();
            let function = if site.caller.is_empty() { &site.start_function } else { &site.caller };
            format!("{function} {file}:{}, where the goroutine was started", site.created_at.line)
        };
        let grandparents = crowd.history.callers().grandparents().into_iter();
        return grandparents.take(MOST).map(|(site, share)| (words(site), share)).collect();
    }
    let words = |caller: &Caller| match &caller.called_by {
        Some(by) => format!("{}, called by {}", caller.at.short(), by.short()),
        None => caller.at.short(),
    };
    ranked.into_iter().take(MOST).map(|(caller, share)| (words(caller), share)).collect()
}

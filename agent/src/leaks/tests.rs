//! Hours of leaking and healthy processes in moments: the clock is told what time it is.

use std::time::Duration;

use super::{Circumstances, Finding, Pattern, SHOWN, findings};
use crate::history::{
    History, Limits,
    tests::{Made, kind, sender, worker},
};

fn judged(history: &History) -> Vec<Finding> {
    findings(history, Circumstances::default(), SHOWN)
}

/// Observes a process for `seconds`, every `step`, while `each` changes it.
fn watched(made: &mut Made, seconds: u64, step: u64, mut each: impl FnMut(&mut Made, u64)) -> History {
    let limits = Limits { step: Duration::from_secs(step), ..Limits::default() };
    let mut history = History::new(limits);
    for second in (0..=seconds).step_by(step as usize) {
        each(made, second);
        history.observe(made.at(second));
    }
    history
}

#[test]
fn a_leak_beside_idle_pools_and_ten_thousand_healthy_goroutines_is_the_first_line() {
    let mut made = Made::default();
    for pool in 0..40u64 {
        for _ in 0..16 {
            made.start(worker(), 0x10 + pool);
        }
    }
    for number in 0..10_000 {
        made.start(kind("main.serve", "main.session", &["runtime.gopark", "main.session"], "IO wait"), 0);
        made.skip(number % 3);
    }
    let history = watched(&mut made, 30, 1, |made, second| {
        // Sessions do something now and then.
        for one in made.alive.iter_mut().filter(|one| one.kind.state == "IO wait" && one.goid % 5 == second % 5) {
            one.mark += 1;
        }
        for _ in 0..2 {
            made.start(sender(), u64::MAX);
        }
    });
    let found = judged(&history);
    let first = found.first().unwrap();
    assert_eq!((first.pattern, first.function()), (Pattern::AbandonedSender, "main.handle"));
    assert!(first.confidence > 0.9, "{first:#?}");
    assert!((5_000.0..9_000.0).contains(&first.per_hour), "{}", first.per_hour);
    assert_eq!(found.len(), 1, "{found:#?}");
}

#[test]
fn ninety_an_hour_are_found_within_six_hours() {
    let mut made = Made::default();
    for _ in 0..16 {
        made.start(worker(), 7);
    }
    // Every 40 seconds one, and healthy ones that come and go with the time of day.
    let history = watched(&mut made, 6 * 3600, 20, |made, second| {
        made.skip(500);
        if second % 40 == 0 {
            made.start(sender(), u64::MAX);
        }
        let wanted = 50 + (30.0 * (second as f64 / 3600.0).sin()) as usize;
        let request = || kind("main.accept", "main.request", &["runtime.gopark", "main.request"], "sleep");
        let mut there: Vec<u64> = made.alive.iter().filter(|one| one.kind == request()).map(|one| one.goid).collect();
        while there.len() > wanted {
            made.end(there.remove(0));
        }
        for _ in there.len()..wanted {
            made.start(request(), 0);
        }
        // One in ten is done, and another takes its place.
        there.iter().take(5).for_each(|goid| made.end(*goid));
    });
    let found = judged(&history);
    assert_eq!(found.len(), 1, "{found:#?}");
    let (low, high) = found[0].per_hour_bounds;
    assert!(found[0].confidence > 0.9 && low < 90.0 && 90.0 < high, "{:#?}", found[0]);
    assert!(found[0].since > Duration::from_secs(5 * 3600));
}

#[test]
fn a_step_a_warm_up_a_wave_and_a_pool_are_no_leaks() {
    type Change = fn(&mut Made, u64);
    let step: Change = |made, second| {
        if second == 20 {
            for _ in 0..50 {
                made.start(kind("main.g", "main.f", &["main.f"], "select"), u64::MAX);
            }
        }
    };
    let warm_up: Change = |made, second| {
        if second < 15 {
            made.start(kind("main.g", "main.f", &["main.f"], "chan receive"), u64::MAX);
        }
    };
    let wave: Change = |made, second| {
        made.start(kind("main.g", "main.f", &["main.f"], "select"), u64::MAX);
        if second > 20 {
            let oldest = made.alive.first().map(|one| one.goid);
            oldest.into_iter().for_each(|goid| made.end(goid));
        }
    };
    let pool: Change = |made, second| {
        if second == 0 {
            for _ in 0..64 {
                made.start(worker(), 7);
            }
        }
        made.skip(100);
    };
    for (name, change) in [("step", step), ("warm-up", warm_up), ("wave", wave), ("pool", pool)] {
        let history = watched(&mut Made::default(), 60, 1, change);
        let found = judged(&history);
        assert!(found.is_empty(), "{name}: {found:#?}");
    }
}

#[test]
fn what_waits_for_ever_needs_no_time() {
    let mut made = Made::default();
    for _ in 0..3 {
        made.start(kind("main.g", "main.f", &["runtime.gopark", "main.f"], "chan receive (nil chan)"), 0);
    }
    let history = watched(&mut made, 4, 1, |_, _| {});
    let found = judged(&history);
    assert_eq!(found.iter().map(|one| one.pattern).collect::<Vec<_>>(), [Pattern::NilChannel]);
}

#[test]
fn bodies_that_are_read_are_not_left_open() {
    let connection = || {
        let frames = ["runtime.gopark", "runtime.selectgo", "net/http.(*persistConn).readLoop"];
        kind("net/http.(*Transport).dialConn", "net/http.(*persistConn).readLoop", &frames, "select")
    };
    let reader = || {
        let frames = ["runtime.gopark", "net/http.(*bodyEOFSignal).Read", "main.follow"];
        kind("main.start", "main.follow", &frames, "select")
    };
    for read in [false, true] {
        let history = watched(&mut Made::default(), 30, 1, |made, _| {
            made.start(connection(), u64::MAX);
            if read {
                made.start(reader(), 0);
            }
        });
        let bodies = judged(&history).iter().filter(|one| one.pattern == Pattern::ResponseBody).count();
        assert_eq!(bodies, usize::from(!read));
    }
}

#[test]
fn a_finalizer_that_blocks_is_told_of() {
    let mut made = Made::default();
    let blocked = kind("runtime.createfing", "runtime.runFinalizers", &["runtime.gopark", "main.f"], "chan receive");
    made.start(crate::history::population::Kind { system: true, ..blocked }, 9);
    let history = watched(&mut made, 20, 1, |_, _| {});
    assert_eq!(judged(&history).first().map(|one| one.pattern), Some(Pattern::Finalizer));
}

#[test]
fn locks_in_different_order_are_told_from_one_that_is_held() {
    let waiter = || kind("main.f", "main.move", &["sync.(*Mutex).Lock", "main.move"], "sync.Mutex.Lock");
    let ring = watched(&mut Made::default(), 20, 1, |made, second| {
        if second % 2 == 0 {
            let (a, b) = (0x10_000 + second * 1000, 0x10_100 + second * 1000);
            for (waits, holds) in [(a, b), (b, a)] {
                made.start(waiter(), waits);
                made.alive.last_mut().unwrap().holds = holds;
            }
        }
    });
    assert_eq!(judged(&ring).first().map(|one| one.pattern), Some(Pattern::LockOrder));
    let held = watched(&mut Made::default(), 20, 1, |made, second| {
        if second == 0 {
            // The first goroutine holds everything in the end.
            made.start(kind("", "runtime.main", &["main.main"], "sleep"), 0);
            made.start(kind("main.f", "main.refresh", &["runtime.gopark", "main.refresh"], "chan receive"), 0x500);
            made.alive.last_mut().unwrap().holds = 0x10_000;
        }
        if second % 2 == 0 {
            made.start(waiter(), 0x10_000);
        }
    });
    let found = judged(&held);
    assert_eq!(found.first().map(|one| one.pattern), Some(Pattern::HeldLock));
    assert!(found[0].evidence.iter().any(|one| one.says.contains("main.refresh")), "{:#?}", found[0]);
}

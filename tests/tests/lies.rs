//! A process may say anything in its memory: a census of it ends, soon, in rows or in a reason.

#![allow(missing_docs, reason = "tests")]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use parkranger::address::RuntimeAddr;
use parkranger::census::{CensusError, Detail};
use parkranger::host::{Batch, Memory, MemoryError, ProcessMemory};
use parkranger_tests::crowd::Crowd;
use parkranger_tests::go::{Program, Toolchain, Variant};
use parkranger_tests::on_every_go;
use parkranger_tests::skip::root;
use parkranger_tests::subject::Subject;

on_every_go!(root: lies, a_list_that_never_ends, unreadable_pages, an_end_in_between);

const ALL: Detail = Detail { stacks: true, labels: true, waits: true };
/// Far more than a census of the crowd takes, far less than one that is led about by the nose.
const SOON: Duration = Duration::from_secs(20);

fn crowd(go: &Toolchain) -> Result<(Crowd, Subject)> {
    let program = go.build(Program::Crowd, Variant::Stripped)?.path;
    let mut crowd = Crowd::start(&program)?;
    crowd.gather()?;
    let subject = Subject::of(&program, crowd.pid())?;
    Ok((crowd, subject))
}

/// What a lie is made from: each read may be changed on its way.
struct Lying<'a, F> {
    real: &'a ProcessMemory,
    lie: F,
}

impl<F: Fn(RuntimeAddr, &mut [u8]) -> bool> Memory for Lying<'_, F> {
    fn read(&self, address: RuntimeAddr, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.real.read(address, buf)?;
        if (self.lie)(address, buf) { Ok(()) } else { Err(MemoryError::Unmapped { pid: 0, address, bytes: buf.len() }) }
    }

    fn read_batch(&self, batch: &mut Batch) -> Result<(), MemoryError> {
        batch.fill_with(|address, buf| self.read(address, buf).is_ok());
        Ok(())
    }

    fn still_there(&self) -> Result<(), MemoryError> {
        Ok(())
    }
}

/// xorshift64: the same lies each time.
fn next(state: &Cell<u64>) -> u64 {
    let mut x = state.get();
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    state.set(x);
    x
}

/// Words of every read are replaced: by nothing, by everything, by each other, by addresses near the truth.
fn lies(go: &Toolchain) -> Result<()> {
    let (_crowd, subject) = crowd(go)?;
    let real = subject.memory()?;
    let honest = subject.runtime(&real)?;
    let state = Cell::new(0x9e37_79b9_7f4a_7c15);
    let (mut rows, mut reasons) = (0, 0);
    for round in 0..300u64 {
        let one_in = 1 << (round % 8 + 2);
        let lying = Lying {
            real: &real,
            lie: |address: RuntimeAddr, buf: &mut [u8]| {
                for word in buf.as_chunks_mut::<8>().0 {
                    if next(&state).is_multiple_of(one_in) {
                        let truth = u64::from_le_bytes(*word);
                        *word = match next(&state) % 7 {
                            0 => 0,
                            1 => u64::MAX,
                            2 => next(&state),
                            3 => truth.wrapping_add(8),
                            4 => truth >> 1,
                            5 => address.0,
                            _ => 1 << (next(&state) % 64),
                        }
                        .to_le_bytes();
                    }
                }
                true
            },
        };
        let begin = Instant::now();
        // Half of the time the list itself is believed to be where it is.
        let census = if round % 2 == 0 {
            honest.census(&lying, ALL)
        } else {
            subject.runtime(&lying).and_then(|runtime| runtime.census(&lying, ALL))
        };
        ensure!(begin.elapsed() < SOON, "round {round} took {:?}", begin.elapsed());
        match census {
            Ok(census) => rows += census.goroutines.len(),
            Err(_) => reasons += 1,
        }
    }
    ensure!(rows > 0 && reasons > 0, "{rows} rows, {reasons} reasons: the lies were too few or too many");
    Ok(())
}

/// Every pointer leads to the goroutine it came from, so that each list of sudogs and each stack bites its own tail.
fn a_list_that_never_ends(go: &Toolchain) -> Result<()> {
    let (_crowd, subject) = crowd(go)?;
    let real = subject.memory()?;
    let honest = subject.runtime(&real)?;
    let census = honest.census(&real, ALL)?;
    let lying = Lying {
        real: &real,
        lie: |address: RuntimeAddr, buf: &mut [u8]| {
            // Whatever is small enough to be a sudog, a label set or a channel names itself everywhere.
            if buf.len() <= 128 && buf.len() > 8 {
                for word in buf.as_chunks_mut::<8>().0 {
                    *word = address.0.to_le_bytes();
                }
            }
            true
        },
    };
    let begin = Instant::now();
    let lied = honest.census(&lying, ALL)?;
    ensure!(begin.elapsed() < SOON, "took {:?}", begin.elapsed());
    ensure!(lied.goroutines.len() == census.goroutines.len(), "{} goroutines", lied.goroutines.len());
    Ok(())
}

/// Pages that cannot be read leave holes, not zeroes.
fn unreadable_pages(go: &Toolchain) -> Result<()> {
    let (_crowd, subject) = crowd(go)?;
    let real = subject.memory()?;
    let honest = subject.runtime(&real)?;
    let census = honest.census(&real, ALL)?;
    let mut holes = 0;
    for seed in 1..50u64 {
        let lying = Lying {
            real: &real,
            lie: |address: RuntimeAddr, _: &mut [u8]| {
                let page = Cell::new((address.0 >> 12 ^ seed << 32) | 1);
                next(&page);
                !next(&page).is_multiple_of(7)
            },
        };
        let Ok(lied) = honest.census(&lying, ALL) else { continue };
        holes += lied.unsettled.structs + lied.unsettled.details;
        for goroutine in &lied.goroutines {
            let known = census.goroutines.iter().any(|one| one.goid == goroutine.goid);
            ensure!(known, "goroutine {} is made up", goroutine.goid);
        }
    }
    ensure!(holes > 0, "nothing was unreadable");
    Ok(())
}

/// Census after census while the process ends, becomes another program, or has its memory unmapped: each is of its own
/// goroutines and no others, or says why there is none; and once it is gone, that is what is said.
fn an_end_in_between(go: &Toolchain) -> Result<()> {
    for name in ["killed", "another program", "unmapped"] {
        let end = |crowd: &mut Crowd| match name {
            "killed" => crowd.kill(),
            "another program" => crowd.last_command("become /bin/true"),
            _ => crowd.last_command("unmap"),
        };
        for round in 0..8u64 {
            let (mut crowd, subject) = crowd(go)?;
            let memory = subject.memory()?;
            let runtime = subject.runtime(&memory)?;
            let known: BTreeSet<u64> = runtime.census(&memory, ALL)?.goroutines.iter().map(|one| one.goid).collect();
            let begin = Instant::now();
            std::thread::scope(|scope| -> Result<()> {
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_micros(700 * round));
                    end(&mut crowd)
                });
                loop {
                    ensure!(begin.elapsed() < SOON, "{name}: it is still there");
                    match runtime.census(&memory, ALL) {
                        Ok(census) => {
                            let strange = census.goroutines.iter().find(|one| !known.contains(&one.goid));
                            // A program that dies of a fault prints its goroutines, and makes none.
                            ensure!(strange.is_none(), "{name}: {strange:?} was made up");
                        }
                        Err(CensusError::Memory(MemoryError::Gone { .. })) => return Ok(()),
                        // Its memory is only half there.
                        Err(_) => {}
                    }
                }
            })?;
            ensure!(subject.memory().is_err(), "{name}: its memory is opened again");
        }
    }
    Ok(())
}

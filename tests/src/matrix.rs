//! Every Go version by every way to build: is what the agent says exactly what the target counted?

use std::{fmt::Write as _, path::Path, time::Instant};

use anyhow::{Context as _, Result, ensure};

use crate::{
    agent::Top,
    compare::{rows, same_counts},
    go::{Program, Toolchain, Variant},
    target::Exercise,
};

/// The versions of the matrix.
pub const MINORS: [u32; 8] = [19, 21, 22, 23, 24, 25, 26, 27];
/// Goroutines started at each site.
const AT_EACH_SITE: u64 = 300;

/// How one cell came out.
#[derive(Debug)]
pub enum Outcome {
    /// Births and exits of every site, their names, files and lines, and the totals are the target's own.
    Exact {
        /// Goroutines the agent saw born.
        births: u64,
    },
    /// There is no such build, with the reason.
    NoSuchBuild(&'static str),
    /// There should be such a build and it failed: of the agent nothing is known here.
    Unbuilt(String),
    /// What was wrong.
    Wrong(String),
}

impl Outcome {
    fn word(&self) -> String {
        match self {
            Self::Exact { births } => format!("exact {births}"),
            Self::NoSuchBuild(_) => "none".to_owned(),
            Self::Unbuilt(_) => "UNBUILT".to_owned(),
            Self::Wrong(_) => "WRONG".to_owned(),
        }
    }
}

/// One build, run and compared.
#[must_use]
pub fn cell(minor: u32, variant: Variant) -> Outcome {
    if let Some(why) = Toolchain::lacks(minor, variant) {
        return Outcome::NoSuchBuild(why);
    }
    let go = match Toolchain::find(minor) {
        Ok(go) => go,
        Err(missing) => return Outcome::Unbuilt(missing.0),
    };
    let program = match go.build(Program::Exercise, variant) {
        Ok(program) => program.path,
        Err(error) => return Outcome::Unbuilt(format!("{error:#}")),
    };
    match compare(&program, variant) {
        Ok(births) => Outcome::Exact { births },
        Err(error) => Outcome::Wrong(format!("{error:#}")),
    }
}

fn compare(program: &Path, variant: Variant) -> Result<u64> {
    let mut exercise = match variant {
        Variant::CShared => Exercise::start_in_python(program)?,
        _ => Exercise::start(program)?,
    };
    // It has begun, and its runtime with it.
    let names = exercise.names()?;
    let top = Top::start(exercise.pid())?;
    for site in &names.spawn {
        exercise.spawn(site, AT_EACH_SITE)?;
    }
    let parked = exercise.park(5, 20)?;
    for kind in &names.block {
        exercise.block(kind, 3)?;
    }
    exercise.release()?;
    exercise.settle()?;
    let stats = exercise.stats()?;
    let agent = top.finish()?;
    same_counts(&stats, &agent)?;
    ensure!(agent.go_version == stats.go_version, "{} is not {}", agent.go_version, stats.go_version);
    let rows = rows(&agent, &parked.function, &parked.start_function);
    let parks: u64 = rows.iter().filter_map(|row| row.waits.get(&parked.wait_reason)).sum();
    ensure!(parks == parked.parks, "{} parks for {:?}, not {}", parks, parked.wait_reason, parked.parks);
    let expected: u64 = names.spawn.len() as u64 * AT_EACH_SITE;
    ensure!(agent.births >= expected, "{} births, {expected} at the least", agent.births);
    Ok(agent.births)
}

/// Fills the matrix, prints it as it comes, and says whether all of it is right.
///
/// # Errors
///
/// When it cannot be printed.
pub fn run(minors: &[u32], variants: &[(Variant, &'static str)]) -> Result<bool> {
    let start = Instant::now();
    let mut notes = String::new();
    let (mut exact, mut none, mut unbuilt, mut wrong) = (0, 0, 0, 0);
    print!("{:<8}", "");
    variants.iter().for_each(|(_, name)| print!("{name:<13}"));
    println!();
    for &minor in minors {
        print!("Go 1.{minor:<3}");
        for (variant, name) in variants {
            let outcome = cell(minor, *variant);
            print!("{:<13}", outcome.word());
            std::io::Write::flush(&mut std::io::stdout()).context("cannot print")?;
            match outcome {
                Outcome::Exact { .. } => exact += 1,
                Outcome::NoSuchBuild(why) => {
                    none += 1;
                    writeln!(notes, "Go 1.{minor} {name}: no such build: {why}")?;
                }
                Outcome::Unbuilt(why) => {
                    unbuilt += 1;
                    writeln!(notes, "Go 1.{minor} {name}: not built: {why}")?;
                }
                Outcome::Wrong(why) => {
                    wrong += 1;
                    writeln!(notes, "Go 1.{minor} {name}: {why}")?;
                }
            }
        }
        println!();
    }
    println!(
        "{notes}{exact} exact, {none} builds that do not exist, {unbuilt} not built, {wrong} wrong, in {:.0} s",
        start.elapsed().as_secs_f64()
    );
    Ok(unbuilt + wrong == 0)
}

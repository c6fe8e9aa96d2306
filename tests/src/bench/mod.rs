//! Benchmarks beside their peers.
//!
//! Numbers from different minutes of one machine cannot be compared; so every variant of a benchmark, the floor and
//! the peers among them, is measured in every round of one run, and what is reported is the median over the rounds,
//! with its spread, and its ratio to a named base.
//!
//! A benchmark is an executable with `harness = false` that reads [`Options`], gets its samples through
//! [`interleave`], and hands the [`Comparison`]s to [`report::finish`].

pub mod own;
pub mod raw;
pub mod report;
pub mod variants;
pub mod vast;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::go::Toolchain;
use crate::skip::{self, Missing};

/// What a benchmark is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// How often each variant is measured.
    pub rounds: usize,
    /// Few rounds, few events: shows that it runs, not how fast.
    pub quick: bool,
    /// Where to write the results for machines.
    pub json: Option<PathBuf>,
    /// Minor version of the Go toolchain to use.
    pub go: u32,
}

impl Options {
    /// Reads the command line: `--rounds N`, `--quick`, `--json FILE`, `--go 24`. Ignores `--bench`, which cargo adds.
    ///
    /// # Errors
    /// When there is anything else.
    pub fn from_args() -> Result<Options> {
        let mut options = Options { rounds: 0, quick: false, json: None, go: 27 };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--bench" => {}
                "--quick" => options.quick = true,
                "--rounds" => options.rounds = value()?.parse().context("--rounds")?,
                "--json" => options.json = Some(value()?.into()),
                "--go" => options.go = value()?.parse().context("--go")?,
                other => bail!("{other}: the options are --rounds N, --quick, --json FILE, --go MINOR"),
            }
        }
        if options.rounds == 0 {
            options.rounds = if options.quick { 3 } else { 9 };
        }
        Ok(options)
    }
}

/// The toolchain to measure with. `None` where the benchmark cannot run here, which is noted: cargo also runs benchmarks
/// from `cargo test --benches`.
pub fn toolchain(name: &str, needs: fn() -> Result<(), Missing>, options: &Options) -> Option<Toolchain> {
    let found = needs().and_then(|()| Toolchain::find(options.go));
    found.map_err(|missing| skip::skip(&format!("bench {name}"), &missing)).ok()
}

/// The samples of one variant, one per round.
#[derive(Debug, Clone)]
pub struct Samples {
    /// The variant.
    pub variant: String,
    /// In the comparison's unit.
    pub values: Vec<f64>,
}

/// One variant's results.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The variant.
    pub variant: String,
    /// Over the rounds.
    pub median: f64,
    /// First quartile.
    pub q1: f64,
    /// Third quartile.
    pub q3: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
    /// Median over each base's median, in the order of the bases; null for want of one.
    pub ratios: Vec<Option<f64>>,
}

/// The variants of one benchmark side by side.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// What was measured.
    pub name: String,
    /// Of every number but the ratio.
    pub unit: String,
    /// The variants that ratios are to.
    pub bases: Vec<String>,
    /// In the order measured.
    pub rows: Vec<Row>,
}

/// Measures `variants` things in each of `rounds` rounds: `measure(round, variant)`. Each round begins with the next
/// variant, so that none is always the first after a pause.
///
/// # Errors
/// The first of `measure`'s.
pub fn interleave(
    rounds: usize,
    variants: usize,
    mut measure: impl FnMut(usize, usize) -> Result<f64>,
) -> Result<Vec<Vec<f64>>> {
    let mut samples = vec![Vec::with_capacity(rounds); variants];
    for round in 0..rounds {
        for turn in 0..variants {
            let variant = (round + turn) % variants;
            samples[variant].push(measure(round, variant)?);
        }
    }
    Ok(samples)
}

impl Comparison {
    /// Puts samples side by side.
    pub fn new(name: &str, unit: &str, bases: &[&str], samples: &[Samples]) -> Comparison {
        let median_of = |base: &str| samples.iter().find(|s| s.variant == base).map(|s| quantile(&s.values, 0.5));
        let base_medians: Vec<Option<f64>> =
            bases.iter().map(|base| median_of(base).filter(|median| *median != 0.0)).collect();
        let rows = samples.iter().map(|s| {
            let median = quantile(&s.values, 0.5);
            Row {
                variant: s.variant.clone(),
                median,
                q1: quantile(&s.values, 0.25),
                q3: quantile(&s.values, 0.75),
                min: quantile(&s.values, 0.0),
                max: quantile(&s.values, 1.0),
                ratios: base_medians.iter().map(|base| base.map(|base| median / base)).collect(),
            }
        });
        Comparison {
            name: name.into(),
            unit: unit.into(),
            bases: bases.iter().map(ToString::to_string).collect(),
            rows: rows.collect(),
        }
    }
}

/// Linear between the two nearest samples; NaN when there are none.
fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    #[allow(clippy::cast_precision_loss, reason = "a handful of samples")]
    let position = q * last as f64;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and last")]
    let below = position.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * position.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_samples() {
        assert_eq!(quantile(&[4.0, 1.0, 3.0, 2.0], 0.5), 2.5);
        assert_eq!(quantile(&[4.0, 1.0, 3.0, 2.0], 0.0), 1.0);
        assert_eq!(quantile(&[4.0, 1.0, 3.0, 2.0], 1.0), 4.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn every_round_measures_every_variant_once() -> Result<()> {
        let mut order = Vec::new();
        let samples = interleave(3, 2, |round, variant| {
            order.push((round, variant));
            Ok(if variant == 0 { 1.0 } else { 2.0 })
        })?;
        assert_eq!(order, [(0, 0), (0, 1), (1, 1), (1, 0), (2, 0), (2, 1)]);
        assert_eq!(samples, [[1.0; 3], [2.0; 3]]);
        Ok(())
    }

    #[test]
    fn ratios_are_to_the_base() {
        let samples = [("floor", 0.0), ("ours", 1.0), ("peer", 4.0)]
            .map(|(variant, value)| Samples { variant: variant.into(), values: vec![value] });
        let ratios = |base: &str| {
            let comparison = Comparison::new("", "ns", &[base], &samples);
            comparison.rows.iter().map(|row| row.ratios[0]).collect::<Vec<_>>()
        };
        assert_eq!(ratios("peer"), [Some(0.0), Some(0.25), Some(1.0)]);
        assert_eq!(ratios("floor"), [None; 3], "nothing is a multiple of 0");
        assert_eq!(ratios("absent"), [None; 3]);
    }
}

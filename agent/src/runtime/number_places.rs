//! Addresses of the runtime's numbers in a binary.
//!
//! Variables are found by name in the symbol table, and a number is read only where the Go version is in the table and the
//! variable has the very size it has there: an experiment or a patch that moved fields changes the size. A stripped binary
//! has its variables in the code that uses them: a variable is where all the fields that known functions use are, at the
//! distances that the table has, and nowhere else. Anywhere else there is no number.

use std::collections::BTreeSet;

use super::{layouts::Row, table::ROWS};
use crate::{
    address::VirtAddr,
    binary::{
        Architecture, Binary, BinaryError,
        bytes::{u32_at, u64_at},
        code::data_references,
    },
};

/// A symbol table larger than this is not looked through.
const MAX_SYMBOLS_BYTES: u64 = 256 << 20;
const SYMBOL_BYTES: usize = 24;

/// Addresses of the runtime's numbers in a binary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NumberPlaces {
    /// `memstats`: `pause_total_ns`, `numgc`.
    pub(crate) memstats: Option<[VirtAddr; 2]>,
    /// `gcController`: `gcPercentHeapGoal`, `heapLive`.
    pub(crate) controller: Option<[VirtAddr; 2]>,
    /// `sched`: `mnext`, `nmfreed`, `npidle`, the size of the run queue.
    pub(crate) sched: Option<[VirtAddr; 4]>,
    pub(crate) gomaxprocs: Option<VirtAddr>,
    /// `allp`, and where in a `p` its queue is: `p.goidcache`, which is in front of it.
    pub(crate) allp: Option<(VirtAddr, u64)>,
    /// The variables that count goroutines.
    pub(crate) goroutines: Option<GoroutineCountPlaces>,
}

/// Addresses by which a runtime counts its goroutines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GoroutineCountPlaces {
    /// `sched.goidgen`, `sched.ngsys`.
    pub(crate) sched: [VirtAddr; 2],
    /// The sizes of `sched`'s lists of free goroutines.
    pub(crate) free: Vec<VirtAddr>,
    pub(crate) allp: VirtAddr,
    /// Offset of `p.goidcache`, with `p.goidcacheend` behind it.
    pub(crate) goidcache: u64,
    /// Offset of the size of a `p`'s list of free goroutines.
    pub(crate) p_free: u64,
}

/// The variables, as addresses.
#[derive(Clone, Copy, Debug, Default)]
struct Variables {
    memstats: Option<u64>,
    controller: Option<u64>,
    sched: Option<u64>,
    gomaxprocs: Option<u64>,
    allp: Option<u64>,
}

impl NumberPlaces {
    /// Finds them; none where the version is not in the table.
    ///
    /// # Errors
    ///
    /// [`BinaryError`] for a symbol table or code that cannot be read.
    pub fn of(binary: &Binary) -> Result<Self, BinaryError> {
        let Some(row) = row(binary) else { return Ok(Self::default()) };
        Ok(match Variables::by_name(binary, row)? {
            Some(variables) => variables.places(row),
            None => Variables::by_use(binary, row)?.places(row),
        })
    }

    /// Finds them in code, as if there were no names.
    ///
    /// # Errors
    ///
    /// [`BinaryError`] for code that cannot be read.
    pub fn by_use(binary: &Binary) -> Result<Self, BinaryError> {
        let Some(row) = row(binary) else { return Ok(Self::default()) };
        Ok(Variables::by_use(binary, row)?.places(row))
    }
}

/// The row of the table that surely holds.
fn row(binary: &Binary) -> Option<&'static Row> {
    let version = binary.go_version();
    let experiment = binary.build_info().and_then(|info| info.setting("GOEXPERIMENT"));
    let released = version.raw.starts_with("go1.") && !version.raw.contains("X:");
    let row = ROWS.iter().find(|row| row.go == (version.major, version.minor) && row.toolchain.is_some());
    row.filter(|_| released && experiment.is_none_or(str::is_empty))
}

impl Variables {
    fn places(self, row: &Row) -> NumberPlaces {
        let [pause_total, cycles, _] = row.mstats;
        let [heap_goal, heap_live, ..] = row.gc_controller;
        let [mnext, nmfreed, npidle, queue, _] = row.sched;
        let [_, goidcache] = row.goid_stock;
        let field = |variable: u64, offset: u32| VirtAddr(variable.saturating_add(u64::from(offset)));
        let [goidgen, ngsys, free, free_without_stack, p_free] = row.goroutine_counts;
        let goroutines = self.sched.zip(self.allp).map(|(sched, allp)| GoroutineCountPlaces {
            sched: [goidgen, ngsys].map(|offset| field(sched, offset)),
            free: [free, free_without_stack].into_iter().filter(|at| *at > 0).map(|at| field(sched, at)).collect(),
            allp: VirtAddr(allp),
            goidcache: u64::from(goidcache),
            p_free: u64::from(p_free),
        });
        NumberPlaces {
            goroutines,
            memstats: self.memstats.map(|at| [pause_total, cycles].map(|offset| field(at, offset))),
            controller: self.controller.map(|at| [heap_goal, heap_live].map(|offset| field(at, offset))),
            sched: self.sched.map(|at| [mnext, nmfreed, npidle, queue].map(|offset| field(at, offset))),
            gomaxprocs: self.gomaxprocs.map(VirtAddr),
            allp: self.allp.map(|at| (VirtAddr(at), u64::from(goidcache))),
        }
    }

    /// `None` where there is no symbol table.
    fn by_name(binary: &Binary, row: &Row) -> Result<Option<Self>, BinaryError> {
        let names = ["runtime.memstats", "runtime.gcController", "runtime.sched", "runtime.gomaxprocs", "runtime.allp"];
        let Some([memstats, controller, sched, gomaxprocs, allp]) = symbols(binary, names)? else { return Ok(None) };
        let [.., mstats_bytes] = row.mstats;
        let [_, _, on_amd64, on_arm64] = row.gc_controller;
        let [.., sched_bytes] = row.sched;
        let controller_bytes = match binary.architecture() {
            Architecture::Amd64 => on_amd64,
            Architecture::Arm64 => on_arm64,
        };
        let sized = |symbol: Option<Symbol>, bytes: u32| {
            symbol.filter(|symbol| symbol.size == u64::from(bytes)).map(|symbol| symbol.address)
        };
        Ok(Some(Self {
            memstats: sized(memstats, mstats_bytes),
            controller: sized(controller, controller_bytes),
            sched: sized(sched, sched_bytes),
            gomaxprocs: sized(gomaxprocs, 4),
            allp: sized(allp, 24),
        }))
    }

    fn by_use(binary: &Binary, row: &Row) -> Result<Self, BinaryError> {
        let [pause_total, cycles, _] = row.mstats;
        let [_, heap_live, ..] = row.gc_controller;
        let [mnext, nmfreed, npidle, queue, sched_bytes] = row.sched;
        // It prints what is asked for here, with all Ps.
        let trace = used_by(binary, "runtime.schedtrace")?;
        // It sets GOMAXPROCS, and makes the Ps.
        let resize = used_by(binary, "runtime.procresize")?;
        let termination = used_by(binary, "runtime.gcMarkTermination")?;
        // Whether a collection is due: `gcController.gcPercent`, the first of all fields, and `heapLive`.
        let trigger = used_by(binary, "runtime.gcTrigger.test")?;
        let reserve = used_by(binary, "runtime.mReserveID")?;
        let put = used_by(binary, "runtime.pidleput")?;
        // The word before `npidle` is the list of idle Ps.
        let sched =
            the_one(&[(&trace, &[mnext, nmfreed, npidle, queue]), (&reserve, &[mnext]), (&put, &[npidle - 8, npidle])]);
        let in_both: BTreeSet<u64> = trace.intersection(&resize).copied().collect();
        // The slice's pointer and length.
        let allp = the_one(&[(&in_both, &[0, 8])]);
        let rest = |at: &u64| {
            let in_sched = sched.is_some_and(|sched| (sched..sched + u64::from(sched_bytes)).contains(at));
            let in_allp = allp.is_some_and(|allp| (allp..allp + 24).contains(at));
            !in_sched && !in_allp
        };
        let gomaxprocs: Vec<u64> = in_both.iter().copied().filter(rest).collect();
        let gomaxprocs = match gomaxprocs.as_slice() {
            [only] if sched.is_some() && allp.is_some() => Some(*only),
            _ => None,
        };
        // `last_gc_unix`, `pause_total_ns`, `pause_ns`; `numgc`, `numforcedgc`.
        let memstats = the_one(&[(&termination, &[pause_total - 8, pause_total, pause_total + 8, cycles, cycles + 4])]);
        let controller = the_one(&[(&trigger, &[0, heap_live]), (&termination, &[heap_live])]);
        Ok(Self { memstats, controller, sched, gomaxprocs, allp })
    }
}

/// The addresses that a function's code refers to; none where there is no such function, or more than one.
fn used_by(binary: &Binary, function: &str) -> Result<BTreeSet<u64>, BinaryError> {
    let bodies: Vec<_> = binary.functions_named(function)?.into_iter().filter(|function| !function.wrapper).collect();
    let [body] = bodies.as_slice() else { return Ok(BTreeSet::new()) };
    Ok(data_references(binary, body)?.into_iter().map(|address| address.0).collect())
}

/// The only address from which each function uses all of its offsets.
fn the_one(functions: &[(&BTreeSet<u64>, &[u32])]) -> Option<u64> {
    let (used, offsets) = functions.first()?;
    let first = u64::from(*offsets.first()?);
    let all_used = |base: &u64| {
        functions.iter().all(|(used, offsets)| offsets.iter().all(|at| used.contains(&(base + u64::from(*at)))))
    };
    let mut found = used.iter().filter_map(|at| at.checked_sub(first)).filter(all_used);
    let only = found.next()?;
    found.next().is_none().then_some(only)
}

#[derive(Clone, Copy)]
struct Symbol {
    address: u64,
    size: u64,
}

/// Looks variables up by name. `None` where there is no symbol table.
fn symbols<const N: usize>(binary: &Binary, names: [&str; N]) -> Result<Option<[Option<Symbol>; N]>, BinaryError> {
    let mut found = [None; N];
    let Some(image) = binary.image_with(".symtab") else { return Ok(None) };
    let Some(table) = image.section_data(".symtab", MAX_SYMBOLS_BYTES)? else { return Ok(None) };
    let Some(strings) = image.section_data(".strtab", MAX_SYMBOLS_BYTES)? else { return Ok(None) };
    for entry in table.as_chunks::<SYMBOL_BYTES>().0 {
        let Some(name) = u32_at(entry, 0).and_then(|at| strings.get(at as usize..)) else { continue };
        for (place, wanted) in found.iter_mut().zip(names) {
            let is_it = name.strip_prefix(wanted.as_bytes()).is_some_and(|rest| rest.first() == Some(&0));
            if let (true, Some(address), Some(size)) = (is_it, u64_at(entry, 8), u64_at(entry, 16)) {
                *place = Some(Symbol { address, size });
            }
        }
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_where_all_its_fields_are() {
        let used = BTreeSet::from([100, 148, 164, 500, 548, 900]);
        let others = BTreeSet::from([548]);
        assert_eq!(the_one(&[(&used, &[0, 48, 64])]), Some(100));
        assert_eq!(the_one(&[(&used, &[0, 48])]), None, "two of them");
        assert_eq!(the_one(&[(&used, &[0, 48]), (&others, &[48])]), Some(500));
        assert_eq!(the_one(&[(&used, &[0, 49])]), None);
        assert_eq!(the_one(&[(&used, &[0])]), None, "each could be it");
        assert_eq!(the_one(&[(&BTreeSet::new(), &[0])]), None);
    }
}

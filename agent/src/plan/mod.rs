//! Which instruction to probe for each event of a binary, or why it cannot be done exactly. Pure: no I/O.
//!
//! | event | function | else | why there |
//! |---|---|---|---|
//! | birth | `runtime.newproc1` | refuse | every goroutine passes it, also `iter.Pull`'s; `newproc` does not see those |
//! | park | `runtime.gopark`, nowhere inlined | `runtime.park_m` | its second half, one to one, reached only through `mcall` |
//! | exit | `runtime.gdestroy`, where it exists (Go ≥ 1.22) | `runtime.goexit0` | where every goroutine ends |
//! | run | `runtime.execute` | no stories | every goroutine that gets to run passes it; `ready` does not see those that netpoll wakes |
//!
//! Which functions exist decides, never the version number: a vendor's backport or a linker's dead-code removal
//! changes the former only.
//!
//! # Where in the function
//!
//! Go's first instructions compare the stack pointer with `g.stackguard0` and branch to a tail that grows the stack and
//! jumps back to the **first** instruction. A probe there counts such a call twice, and the kernel single-steps it,
//! which costs two traps. So the prologue is decoded ([`amd64`], [`arm64`]) and one of these is taken:
//!
//! 1. amd64: the `push %rbp` that follows the check. Only the pass that goes on reaches it: once per call.
//! 2. the check's own conditional branch, in both passes of such a call. The pass to be dropped is told by the flags
//!    saved at the probe ([`ProbePoint::skip_when_branch_taken`]):
//!    - amd64 `jbe` is taken if CF or ZF: `flags & 0x41 != 0`;
//!    - arm64 `b.ls` is taken if C is clear or Z set: `pstate & (1 << 29) == 0 || pstate & (1 << 30) != 0`.
//!
//! At either instruction the stack pointer, the arguments and the current g are still those of the call: nothing before
//! it may write them, which is checked, not assumed. The return address is at `(%rsp)` on amd64 and in `x30` on arm64.
//!
//! # What the kernel emulates
//!
//! Only these are handled inside the breakpoint's own trap; everything else is single-stepped out of line (second trap,
//! 15 times dearer on virtual machines) and is never chosen.
//!
//! - amd64 (`arch/x86/kernel/uprobes.c`): `push` of a register (`push_emulate_op`, since 4.16); `jcc`, `jmp`, `call`
//!   with a relative target and `nop` (`branch_emulate_op`). The kernel refuses to emulate a branch with a 0x66 prefix,
//!   so prefixed forms are not chosen.
//! - arm64 (`arch/arm64/kernel/probes/decode-insn.c`, `arm_probe_decode_insn`; `simulate-insn.c`): `b`, `bl`
//!   (`simulate_b_bl`), `b.cond` (`simulate_b_cond`), `cbz`/`cbnz` (`simulate_cbz_cbnz`), `tbz`/`tbnz`
//!   (`simulate_tbz_tbnz`), `br`, `blr`, `ret` (`simulate_br_blr_ret`), `adr`, `adrp` (`simulate_adr_adrp`) and, on
//!   some kernels, `ldr` of a literal (`simulate_ldr_literal`).

use std::fmt;

use thiserror::Error;

pub use parkranger_common::probe::Event;

use crate::{
    address::{FileOffset, VirtAddr},
    binary::{Architecture, Binary, BinaryError, Function},
};

mod amd64;
mod arm64;
#[cfg(test)]
mod tests;

/// No function of ours comes near this (the largest seen has 2.7 KiB); a longer one is refused before it is read.
pub const MAX_FUNCTION_BYTES: u64 = 64 * 1024;

/// How many names of a list go into a sentence: lists come from the binary and have no other bound.
const NAMES_SHOWN: usize = 4;

/// What planning asks of a binary.
pub trait Image {
    /// Why the binary could not answer.
    type Error: fmt::Display;

    /// The instruction set of its code.
    fn architecture(&self) -> Architecture;

    /// Every function of exactly this name; empty when there is none.
    ///
    /// # Errors
    ///
    /// When the function table cannot be read.
    fn functions_named(&self, name: &str) -> Result<Vec<Function>, Self::Error>;

    /// The names of the functions that hold an inlined copy of `name`; empty when there is none.
    ///
    /// # Errors
    ///
    /// When the inline trees cannot be read: "not known" must not look like "nowhere".
    fn inlined_into(&self, name: &str) -> Result<Vec<String>, Self::Error>;

    /// Fills all of `buf` with the code at `at`.
    ///
    /// # Errors
    ///
    /// When not all of it is code in the file.
    fn code(&self, at: VirtAddr, buf: &mut [u8]) -> Result<(), Self::Error>;

    /// Where the byte at `at` is in the file, if it is.
    fn file_offset(&self, at: VirtAddr) -> Option<FileOffset>;
}

/// Where the `g` of the goroutine concerned is when the probe fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GoroutineSource {
    /// The function's first argument: AX, x0. The function runs on the scheduler's stack, so the current g is not it.
    FirstArgument,
    /// The current g: R14, x28. The function runs on the goroutine's own stack.
    CurrentG,
    /// It is not made yet. `newproc1(fn, callergp, callerpc, …)`: AX, BX, CX and x0, x1, x2.
    NotYet,
}

/// Where a park's wait reason is when the probe fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WaitReasonSource {
    /// `gopark`'s third argument, one byte: CL, w2. `g.waitreason` still has the last one.
    ThirdArgument,
    /// `g.waitreason`: `gopark` has written it before `park_m` runs.
    FieldOfG,
}

/// One instruction to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbePoint {
    /// What a hit counts as.
    pub event: Event,
    /// The function it is in.
    pub function: String,
    /// Its address.
    pub address: VirtAddr,
    /// Its place in the file, which is what the kernel is given.
    pub offset: FileOffset,
    /// Its text, AT&T syntax on amd64: `push %rbp`. The kernel emulates it: one that would be single-stepped is refused.
    pub instruction: String,
    /// It is the stack check's branch: a hit whose saved flags say "taken" is the pass before the stack grows and does
    /// not count. The formulas are in the module's documentation.
    pub skip_when_branch_taken: bool,
    /// Where the goroutine is.
    pub goroutine: GoroutineSource,
    /// Where the wait reason is; `None` unless the event is a park.
    pub wait_reason: Option<WaitReasonSource>,
}

/// Every instruction to probe in one binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// All of them must be attached, or a count is wrong. In the order birth, park, exit; an exit may have two.
    pub points: Vec<ProbePoint>,
    /// Where goroutines get to run, for stories; or why none can be told.
    pub run: Result<ProbePoint, Refusal>,
    /// Sentences for `--verbose`: where and why the plan is not the usual one.
    pub notes: Vec<String>,
}

/// Why a binary's goroutines cannot be counted exactly.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// None of the functions an event can be counted at is in the binary.
    #[error(
        "cannot count each {}: the binary has no {}; is it a Go program, and not obfuscated (garble -tiny removes the names)?",
        event.name(), join(names, " and no ")
    )]
    MissingFunction {
        /// The event without a function.
        event: Event,
        /// The functions looked for.
        names: Vec<String>,
    },
    /// Calls were replaced by copies of the body, which no probe on the function sees.
    #[error("{function} is inlined in {}: its calls there cannot be seen; rebuild with -pgo=off", join(into, ", "))]
    Inlined {
        /// The function copied.
        function: String,
        /// The functions holding copies.
        into: Vec<String>,
    },
    /// No instruction of the function fires exactly once per call and is emulated by the kernel.
    #[error("{function} has no instruction that can be probed exactly: {why} (it starts with the bytes {bytes})")]
    NoUsableInstruction {
        /// The function decoded.
        function: String,
        /// Its first bytes, in hex.
        bytes: String,
        /// What stood in the way.
        why: Unusable,
    },
    /// The chosen instruction has no place in the file, so there is nothing to attach to.
    #[error("{function} at {address} is not in the file: is the binary packed (UPX)? Unpack it")]
    NotInFile {
        /// The function.
        function: String,
        /// The instruction.
        address: VirtAddr,
    },
    /// More than one function could be meant.
    #[error("{function} is not one function: {why}")]
    Ambiguous {
        /// The name looked for.
        function: String,
        /// What was found instead.
        why: String,
    },
    /// The binary's tables or code could not be read.
    #[error("the binary cannot be read: {0}")]
    Image(String),
}

/// Why no instruction of a function can be probed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Unusable {
    /// The function is longer than [`MAX_FUNCTION_BYTES`], or its end is before its entry.
    #[error("its size, {0} bytes, is not believable")]
    Size(u64),
    /// The function ends inside an instruction, or inside the prologue.
    #[error("it is cut off at {0}")]
    CutOff(VirtAddr),
    /// Bytes that are no instruction. What is behind them may jump anywhere, so nothing is known.
    #[error("the bytes at {0} are no instruction")]
    NotCode(VirtAddr),
    /// Not a prologue of the Go compiler that is known, and what is there would be single-stepped.
    #[error(
        "`{instruction}` at {address} belongs to no stack check that is known, and the kernel would single-step it"
    )]
    UnknownPrologue {
        /// The first instruction that does not fit.
        address: VirtAddr,
        /// Its text.
        instruction: String,
    },
    /// An argument, or the current g, is lost before the first instruction that could be probed.
    #[error("`{instruction}` at {address} overwrites an argument")]
    ArgumentOverwritten {
        /// The instruction.
        address: VirtAddr,
        /// Its text.
        instruction: String,
    },
    /// The check's branch does not lead to a call of `morestack` and back to the entry.
    #[error("the stack check's branch leads to {0}, which does not grow the stack and start over")]
    NotMorestack(VirtAddr),
    /// The probe would fire more than once per call.
    #[error("the branch at {from} jumps back into the prologue, to {to}")]
    JumpIntoPrologue {
        /// The branch.
        from: VirtAddr,
        /// Where it goes.
        to: VirtAddr,
    },
}

fn join(names: &[String], separator: &str) -> String {
    let mut text = names.iter().take(NAMES_SHOWN).map(String::as_str).collect::<Vec<_>>().join(separator);
    if names.len() > NAMES_SHOWN {
        text.push_str(&format!("{separator}{} more", names.len() - NAMES_SHOWN));
    }
    text
}

/// The code of one function, and where it is.
struct Body {
    entry: u64,
    bytes: Vec<u8>,
}

impl Body {
    /// The first address behind the code.
    fn end(&self) -> u64 {
        self.entry.saturating_add(self.bytes.len() as u64)
    }

    fn contains(&self, address: u64) -> bool {
        (self.entry..self.end()).contains(&address)
    }
}

/// The instruction of a body to probe.
#[derive(Debug, PartialEq, Eq)]
struct Choice {
    address: u64,
    instruction: String,
    skip_when_branch_taken: bool,
}

impl Image for Binary {
    type Error = BinaryError;

    fn architecture(&self) -> Architecture {
        self.architecture()
    }

    fn functions_named(&self, name: &str) -> Result<Vec<Function>, BinaryError> {
        self.functions_named(name)
    }

    fn inlined_into(&self, name: &str) -> Result<Vec<String>, BinaryError> {
        self.inlined_into(name)
    }

    fn code(&self, at: VirtAddr, buf: &mut [u8]) -> Result<(), BinaryError> {
        self.read(at, buf)
    }

    fn file_offset(&self, at: VirtAddr) -> Option<FileOffset> {
        self.file_offset(at)
    }
}

impl Plan {
    /// What to probe in `image`.
    ///
    /// # Errors
    ///
    /// The first reason found why a count would not be exact.
    pub fn of(image: &impl Image) -> Result<Self, Refusal> {
        let mut plan = Self { points: Vec::new(), run: run(image), notes: Vec::new() };
        plan.birth(image)?;
        plan.park(image)?;
        plan.exit(image)?;
        Ok(plan)
    }

    fn birth(&mut self, image: &impl Image) -> Result<(), Refusal> {
        let newproc1 = present(image, Event::Birth, &["runtime.newproc1"])?;
        self.points.push(point(image, Event::Birth, &newproc1, GoroutineSource::NotYet)?);
        Ok(())
    }

    /// `gopark` ends in `mcall(park_m)`, its only way to wait and `park_m`'s only caller in Go 1.19 to 1.27, so the two
    /// count the same; `gopark` is preferred because it is the name users know.
    fn park(&mut self, image: &impl Image) -> Result<(), Refusal> {
        let into = inlined_into(image, "runtime.gopark")?;
        if !into.is_empty() {
            let names = join(&into, ", ");
            self.notes.push(format!("runtime.gopark is inlined in {names}: parks are counted at runtime.park_m"));
        } else if let Some(gopark) = body_of(image, "runtime.gopark")? {
            match point(image, Event::Park, &gopark, GoroutineSource::CurrentG) {
                Err(refusal @ Refusal::NoUsableInstruction { .. }) => {
                    self.notes.push(format!("{refusal}: parks are counted at runtime.park_m"));
                }
                outcome => {
                    self.points.push(outcome?);
                    return Ok(());
                }
            }
        } else {
            self.notes.push("there is no runtime.gopark: parks are counted at runtime.park_m".to_owned());
        }
        let park_m = present(image, Event::Park, &["runtime.park_m", "runtime.gopark"])?;
        self.points.push(point(image, Event::Park, &park_m, GoroutineSource::FirstArgument)?);
        Ok(())
    }

    /// From Go 1.22 a goroutine ends in `gdestroy`, called by `goexit0` (its function returned, or `runtime.Goexit`) and
    /// by `coroswitch_m` (a coroutine of `iter.Pull` ended). Before, in `goexit0`.
    ///
    /// Optimising with a profile can inline `gdestroy`. Into `goexit0` alone, the two functions share the exits without
    /// overlap and both are probed: `goexit0` runs once per goroutine that ends its own way, holds one call of
    /// `gdestroy`, and that is the copy, so it never reaches the body (checked: it has no branch there); the body is
    /// reached from elsewhere only, by a coroutine's end. If the linker removed the body, nothing else calls it.
    /// Any other function with a copy (`coroswitch_m` runs at every switch, not only the last) hides exits: refused.
    fn exit(&mut self, image: &impl Image) -> Result<(), Refusal> {
        let gdestroy = body_of(image, "runtime.gdestroy")?;
        let into = inlined_into(image, "runtime.gdestroy")?;
        if into.iter().any(|name| name != "runtime.goexit0") {
            return Err(Refusal::Inlined { function: "runtime.gdestroy".to_owned(), into });
        }
        if let Some(gdestroy) = &gdestroy {
            self.points.push(point(image, Event::Exit, gdestroy, GoroutineSource::FirstArgument)?);
            if into.is_empty() {
                return Ok(());
            }
        }
        let goexit0 = present(image, Event::Exit, &["runtime.goexit0", "runtime.gdestroy"])?;
        if let Some(gdestroy) = &gdestroy {
            let body = read(image, &goexit0)?;
            let reaches = match image.architecture() {
                Architecture::Amd64 => amd64::branches_to(&body, gdestroy.entry.0),
                Architecture::Arm64 => arm64::branches_to(&body, gdestroy.entry.0),
            };
            if reaches {
                let why = "runtime.goexit0 both holds a copy of it and calls it".to_owned();
                return Err(Refusal::Ambiguous { function: gdestroy.name.clone(), why });
            }
            self.notes.push(
                "runtime.gdestroy is inlined in runtime.goexit0: exits are counted at both, each exit at one"
                    .to_owned(),
            );
        }
        self.points.push(point(image, Event::Exit, &goexit0, GoroutineSource::FirstArgument)?);
        Ok(())
    }
}

/// `execute` runs on g0 and ends in the goroutine, wherever that comes from: the run queues, the network poller, a thread it
/// is locked to, a park that did not come about. A coroutine that `iter.Pull` switches to goes by it, and has not parked.
fn run(image: &impl Image) -> Result<ProbePoint, Refusal> {
    let execute = present(image, Event::Run, &["runtime.execute"])?;
    point(image, Event::Run, &execute, GoroutineSource::FirstArgument)
}

/// The body of the first of `names`, which must exist and be nowhere inlined. The others are only named in the refusal.
fn present(image: &impl Image, event: Event, names: &[&str]) -> Result<Function, Refusal> {
    let [name, ..] = names else {
        return Err(Refusal::MissingFunction { event, names: Vec::new() });
    };
    let into = inlined_into(image, name)?;
    if !into.is_empty() {
        return Err(Refusal::Inlined { function: (*name).to_owned(), into });
    }
    let missing = || Refusal::MissingFunction { event, names: names.iter().map(ToString::to_string).collect() };
    body_of(image, name)?.ok_or_else(missing)
}

fn inlined_into(image: &impl Image, name: &str) -> Result<Vec<String>, Refusal> {
    let mut into = image.inlined_into(name).map_err(|error| Refusal::Image(error.to_string()))?;
    into.sort();
    into.dedup();
    Ok(into)
}

/// The function of this name that is no wrapper, if there is one.
fn body_of(image: &impl Image, name: &str) -> Result<Option<Function>, Refusal> {
    let mut bodies = image.functions_named(name).map_err(|error| Refusal::Image(error.to_string()))?;
    bodies.retain(|function| !function.wrapper);
    bodies.dedup_by_key(|function| (function.entry, function.end));
    if bodies.len() > 1 {
        let entries = bodies.iter().map(|body| body.entry.to_string()).collect::<Vec<_>>();
        let why = format!("{} bodies have this name, at {}", bodies.len(), join(&entries, ", "));
        return Err(Refusal::Ambiguous { function: name.to_owned(), why });
    }
    Ok(bodies.pop())
}

fn point(
    image: &impl Image,
    event: Event,
    function: &Function,
    goroutine: GoroutineSource,
) -> Result<ProbePoint, Refusal> {
    let body = read(image, function)?;
    let choice = match image.architecture() {
        Architecture::Amd64 => amd64::choose(&body),
        Architecture::Arm64 => arm64::choose(&body),
    }
    .map_err(|why| unusable(function, &body.bytes, why))?;
    let address = VirtAddr(choice.address);
    let offset =
        image.file_offset(address).ok_or_else(|| Refusal::NotInFile { function: function.name.clone(), address })?;
    Ok(ProbePoint {
        event,
        function: function.name.clone(),
        address,
        offset,
        instruction: choice.instruction,
        skip_when_branch_taken: choice.skip_when_branch_taken,
        goroutine,
        wait_reason: (event == Event::Park).then_some(match goroutine {
            GoroutineSource::CurrentG => WaitReasonSource::ThirdArgument,
            GoroutineSource::FirstArgument | GoroutineSource::NotYet => WaitReasonSource::FieldOfG,
        }),
    })
}

fn read(image: &impl Image, function: &Function) -> Result<Body, Refusal> {
    let size = function.end.0.wrapping_sub(function.entry.0);
    if size == 0 || size > MAX_FUNCTION_BYTES || function.end < function.entry {
        return Err(unusable(function, &[], Unusable::Size(size)));
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
    image.code(function.entry, &mut bytes).map_err(|error| Refusal::Image(error.to_string()))?;
    Ok(Body { entry: function.entry.0, bytes })
}

fn unusable(function: &Function, bytes: &[u8], why: Unusable) -> Refusal {
    let bytes = bytes.iter().take(24).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    Refusal::NoUsableInstruction { function: function.name.clone(), bytes, why }
}

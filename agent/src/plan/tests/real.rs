//! The instruction chosen in every function of `functions.txt`. The offsets expected are those other disassemblers tell.

use super::*;

/// Bytes from the entry to the instruction, and its text without the target; `None` where nothing can be probed.
fn expected(function: &RealFunction) -> Option<(u64, &'static str)> {
    // Inlining by profile gave these functions frames over 128 bytes.
    let grown = function.build == "pgo"
        && match function.version {
            "1.21.13" => function.name == "runtime.goexit0",
            _ => ["runtime.newproc1", "runtime.park_m", "runtime.gdestroy"].contains(&function.name),
        };
    // Without optimising, the tails are too far for an 8-bit displacement.
    let far = function.build == "noopt";
    if function.architecture == Architecture::Arm64 {
        let offset = match function.name {
            "main.unchecked" => return None,
            "main.large" => 12,
            "main.huge" => 20,
            "main.oddlyHuge" => 24,
            _ if grown => 12,
            _ => 8,
        };
        return Some((offset, "b.ls"));
    }
    // Go 1.19 makes its frame without a push.
    if function.version == "1.19.8" {
        let offset = match function.name {
            "main.unchecked" => return None,
            "main.large" => 12,
            "main.huge" | "main.oddlyHuge" if far => 20,
            "main.huge" | "main.oddlyHuge" => 16,
            _ => 4,
        };
        return Some((offset, "jbe"));
    }
    let offset = match function.name {
        "main.unchecked" => 0,
        "main.large" if far => 18,
        "main.large" => 14,
        "main.huge" | "main.oddlyHuge" if far => 26,
        "main.huge" | "main.oddlyHuge" => 18,
        _ if grown => 15,
        // From 1.22 `goexit0` only calls `gdestroy` and `schedule`: a short branch, unless the latter is inlined.
        "runtime.goexit0" if function.version != "1.21.13" && function.build != "pgo" => 6,
        _ => 10,
    };
    Some((offset, "push %rbp"))
}

#[test]
fn every_function_of_every_toolchain() {
    let functions = RealFunction::all();
    for function in &functions {
        let label = format!("{} {:?} {} {}", function.version, function.architecture, function.build, function.name);
        let found = choose(function.architecture, &function.body());
        match (expected(function), found) {
            (Some((offset, text)), Ok(choice)) => {
                assert_eq!(choice.address - function.entry, offset, "{label}");
                assert!(choice.instruction.starts_with(text), "{label}: {}", choice.instruction);
                assert_eq!(choice.skip_when_branch_taken, text != "push %rbp", "{label}");
            }
            (None, Err(Unusable::UnknownPrologue { address, .. })) => assert_eq!(address.0, function.entry, "{label}"),
            (expected, found) => unreachable!("{label}: expected {expected:?}, found {found:?}"),
        }
    }
    let versions: std::collections::BTreeSet<_> = functions.iter().map(|function| function.version).collect();
    assert_eq!(versions.len(), 8, "{versions:?}");
}

#[test]
fn every_plan_of_every_toolchain() {
    let builds: std::collections::BTreeSet<_> =
        RealFunction::all().iter().map(|it| (it.version, it.architecture == Architecture::Arm64, it.build)).collect();
    for (version, arm64, build) in builds {
        let architecture = if arm64 { Architecture::Arm64 } else { Architecture::Amd64 };
        let plan = Plan::of(&Made::real(version, architecture, build)).expect("a plan");
        let found: Vec<_> = plan.points.iter().map(|point| (point.event, point.function.as_str())).collect();
        let exit = if ["1.19.8", "1.21.13"].contains(&version) { "runtime.goexit0" } else { "runtime.gdestroy" };
        let expected = [(Event::Birth, "runtime.newproc1"), (Event::Park, "runtime.gopark"), (Event::Exit, exit)];
        assert_eq!(found, expected, "{version} {architecture:?} {build}");
        let run = plan.run.expect("stories");
        assert_eq!((run.event, run.function.as_str()), (Event::Run, "runtime.execute"));
        assert_eq!(plan.notes, Vec::<String>::new());
    }
}

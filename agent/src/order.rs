//! The order of the stages, held to the code: a stage imports from stages above it, never from one below.
//!
//! Read are `crate::` paths of code that ships: test modules may look anywhere.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Stages, the first of the way of the data first. `docs/architecture.md` shows the same order.
const STAGES: [&str; 27] = [
    "printable",
    "address",
    "binary",
    "runtime",
    "plan",
    "symbols",
    "host",
    "go_binary",
    "kernel",
    "census",
    "heap",
    "program",
    "ledger",
    "governor",
    "snapshot",
    "watch",
    "history",
    "leaks",
    "trace",
    "dump",
    "saved",
    "diff",
    "export",
    "views",
    "serve",
    "cli",
    "main",
];

/// Files of tests alone.
const TEST_FILES: [&str; 4] = ["tests.rs", "testing.rs", "fake.rs", "order.rs"];

#[test]
fn no_stage_imports_from_one_below_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut against = BTreeSet::new();
    let mut imports = 0;
    for file in sources(&root) {
        let relative = file.strip_prefix(&root).unwrap();
        let stage = relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if stage == "lib" {
            continue;
        }
        let own =
            position(stage).unwrap_or_else(|| panic!("{} is in no stage: add it to the order", relative.display()));
        for name in imported(&fs::read_to_string(&file).unwrap()) {
            let Some(other) = position(&name) else { continue };
            imports += 1;
            if other > own {
                against.insert(format!("{}: {stage} imports from {name}", relative.display()));
            }
        }
    }
    assert!(imports > 100, "the imports are not found: {imports}");
    assert!(against.is_empty(), "against the order of the stages:\n{}", Vec::from_iter(against).join("\n"));
}

#[test]
fn the_document_shows_the_same_order() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/architecture.md");
    let document = fs::read_to_string(document).unwrap();
    let stages = STAGES.iter().filter(|stage| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        root.join(stage).is_dir()
    });
    let mut from = 0;
    for stage in stages {
        let line = format!(" {stage}/ ");
        match document[from..].find(&line) {
            Some(at) => from += at,
            None => panic!("docs/architecture.md does not show `{stage}/` behind the stage before it"),
        }
    }
}

#[test]
fn imports_are_found_in_every_form() {
    let text = "use crate::{\n    host::{Proc, x::Y},\n    kernel::Z,\n};\nuse crate::plan::Plan;\n// crate::cli\nlet a = \
                crate::dump::state();\n#[cfg(test)]\nmod tests {\n    use crate::serve::X;\n}\n";
    assert_eq!(imported(text), ["dump", "host", "kernel", "plan"].map(str::to_owned).into());
}

fn position(stage: &str) -> Option<usize> {
    STAGES.iter().position(|known| *known == stage)
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            if name != "tests" {
                found.extend(sources(&path));
            }
        } else if name.ends_with(".rs") && !TEST_FILES.contains(&name) {
            found.push(path);
        }
    }
    found
}

/// The first names of all `crate::` paths in code, up to the file's test module.
fn imported(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let code: String =
        code.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect();
    let mut found = BTreeSet::new();
    for after in code.split("crate::").skip(1) {
        let mut depth = 0;
        let mut at_name = true;
        let mut name = String::new();
        for character in after.chars() {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => at_name = true,
                letter if at_name && depth <= 1 && (letter.is_alphanumeric() || letter == '_') => {
                    name.push(letter);
                    continue;
                }
                _ => {}
            }
            if !name.is_empty() {
                found.insert(std::mem::take(&mut name));
                at_name = false;
            }
            if depth <= 0 && !at_name || character == ';' {
                break;
            }
        }
    }
    found
}

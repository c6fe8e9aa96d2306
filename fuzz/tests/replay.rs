//! Every input of `corpus/` through every parser: what once broke one must not break it again, nor another one.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use parkranger_fuzz::{
    drive::Parser,
    image::{Image, RECIPES},
};

/// For one input and one parser, in a debug build on a busy machine.
const LONGEST: Duration = Duration::from_secs(10);

/// Every input with a name for it: a file, or a line of a `.hex` file.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let mut inputs = Vec::new();
    for folder in listed(&Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")) {
        for file in listed(&folder) {
            let name = file.display().to_string();
            let bytes = fs::read(&file).expect("readable");
            if file.extension().is_some_and(|extension| extension == "hex") {
                let lines = String::from_utf8(bytes).expect("hex digits");
                inputs.extend((1..).zip(lines.lines()).map(|(line, hex)| (format!("{name}:{line}"), from_hex(hex))));
            } else {
                inputs.push((name, bytes));
            }
        }
    }
    assert!(inputs.len() >= 1000, "the corpus has only {} inputs", inputs.len());
    inputs
}

fn listed(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).expect("part of the repository").map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    entries
}

fn from_hex(line: &str) -> Vec<u8> {
    let digit = |at| u8::from_str_radix(line.get(at..at + 2).expect("two digits"), 16).expect("hex digits");
    (0..line.len()).step_by(2).map(digit).collect()
}

#[test]
fn no_input_of_the_corpus_breaks_a_parser() {
    for (name, input) in corpus() {
        for parser in Parser::ALL {
            let start = Instant::now();
            parser.run(&input);
            let took = start.elapsed();
            assert!(took < LONGEST, "{} took {took:?} for {name}", parser.name());
        }
    }
}

/// Without this the fuzzer would only ever test the refusals.
#[test]
fn unchanged_images_are_understood() {
    for (index, recipe) in (0u8..).zip(RECIPES) {
        for parser in [Parser::Binary, Parser::Layout, Parser::WaitReasons, Parser::Gopclntab, Parser::Plan] {
            assert!(parser.run(&[index]), "{} does not understand {recipe:?}", parser.name());
        }
        let has_dwarf = recipe.debug != parkranger_fuzz::image::Debug::None;
        assert!(Parser::Dwarf.run(&[index]) || !has_dwarf, "no symbols from the DWARF of {recipe:?}");
    }
}

#[test]
fn images_are_small() {
    for recipe in RECIPES {
        let image = Image::new(recipe);
        assert!(image.bytes.len() < 64 << 10, "{} bytes: {recipe:?}", image.bytes.len());
        assert!(image.fields.len() < 1 << 16, "more fields than an input can name");
    }
}

//! The inputs of `corpus/` through the parsers: what once broke one must not break it again, nor, where it was made by
//! hand, another one.

use std::{
    fs,
    path::{Path, PathBuf},
};

use parkranger_fuzz::{
    drive::{LONGEST, Parser},
    image::{Image, Processor, RECIPES},
};

/// One input: its name, its bytes, and who is to read it.
type Input = (String, Vec<u8>, Vec<Parser>);

/// Every input: a file, for all parsers, or a line of the `.hex` file of the parser it was found with.
fn corpus() -> Vec<Input> {
    let mut inputs = Vec::new();
    for folder in listed(&Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")) {
        for file in listed(&folder) {
            let name = file.display().to_string();
            let bytes = fs::read(&file).expect("readable");
            if file.extension().is_some_and(|extension| extension == "hex") {
                let lines = String::from_utf8(bytes).expect("hex digits");
                let stem = file.file_stem().and_then(|stem| stem.to_str());
                let of =
                    Parser::ALL.into_iter().find(|parser| Some(parser.name()) == stem).expect("called like a parser");
                let found = (1..).zip(lines.lines());
                inputs.extend(found.map(|(line, hex)| (format!("{name}:{line}"), from_hex(hex), vec![of])));
            } else {
                inputs.push((name, bytes, Parser::ALL.to_vec()));
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
    for (name, input, parsers) in corpus() {
        for parser in parsers {
            let took = parser.time(&input);
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
        let has_debug_file = has_dwarf && recipe.processor == Processor::Amd64;
        assert!(Parser::DebugFile.run(&[index]) || !has_debug_file, "no symbols from {recipe:?} as a debug file");
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

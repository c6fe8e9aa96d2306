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

fn corpus() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let folders = fs::read_dir(&root).expect("the corpus is part of the repository");
    let mut files: Vec<PathBuf> = folders
        .flat_map(|folder| fs::read_dir(folder.expect("a folder").path()).expect("a folder per parser"))
        .map(|file| file.expect("a file").path())
        .collect();
    files.sort();
    assert!(files.len() >= RECIPES.len(), "the corpus has only {} inputs", files.len());
    files
}

#[test]
fn no_input_of_the_corpus_breaks_a_parser() {
    for file in corpus() {
        let input = fs::read(&file).expect("readable");
        for parser in Parser::ALL {
            let start = Instant::now();
            parser.run(&input);
            let took = start.elapsed();
            assert!(took < LONGEST, "{} took {took:?} for {}", parser.name(), file.display());
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

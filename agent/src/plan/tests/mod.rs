//! The plan against functions of real binaries (`functions.txt`), against made-up binaries, and against hostile bytes.

use std::collections::BTreeMap;

use super::*;

mod hostile;
mod planning;
mod real;
mod refresh;

/// One line of `functions.txt`: `version architecture build function entry bytes`.
#[derive(Clone, Debug)]
struct RealFunction {
    version: &'static str,
    architecture: Architecture,
    build: &'static str,
    name: &'static str,
    entry: u64,
    bytes: Vec<u8>,
}

impl RealFunction {
    fn all() -> Vec<Self> {
        include_str!("functions.txt").lines().map(Self::parse).collect()
    }

    fn parse(line: &'static str) -> Self {
        let fields: Vec<&'static str> = line.split(' ').collect();
        let &[version, architecture, build, name, entry, hex] = fields.as_slice() else {
            unreachable!("six fields, not {line:?}")
        };
        let architecture = match architecture {
            "amd64" => Architecture::Amd64,
            "arm64" => Architecture::Arm64,
            other => unreachable!("no architecture {other}"),
        };
        let number = |digits, what| u64::from_str_radix(digits, 16).expect(what);
        let bytes = (0..hex.len()).step_by(2).map(|at| number(&hex[at..at + 2], "a byte") as u8).collect();
        Self { version, architecture, build, name, entry: number(entry, "an address"), bytes }
    }

    fn body(&self) -> Body {
        Body { entry: self.entry, bytes: self.bytes.clone() }
    }
}

fn choose(architecture: Architecture, body: &Body) -> Result<Choice, Unusable> {
    match architecture {
        Architecture::Amd64 => amd64::choose(body),
        Architecture::Arm64 => arm64::choose(body),
    }
}

/// A binary made of given functions.
struct Made {
    architecture: Architecture,
    functions: Vec<Function>,
    code: BTreeMap<u64, Vec<u8>>,
    inlined: BTreeMap<String, Vec<String>>,
    in_file: bool,
}

impl Made {
    fn new(architecture: Architecture) -> Self {
        Self { architecture, functions: Vec::new(), code: BTreeMap::new(), inlined: BTreeMap::new(), in_file: true }
    }

    /// The five functions of one real build.
    fn real(version: &str, architecture: Architecture, build: &str) -> Self {
        let mut made = Self::new(architecture);
        for function in RealFunction::all() {
            if function.version == version && function.architecture == architecture && function.build == build {
                made = made.with(function.name, function.entry, &function.bytes);
            }
        }
        assert!(!made.functions.is_empty(), "functions.txt has no {version} {architecture:?} {build}");
        made
    }

    fn with(mut self, name: &str, entry: u64, bytes: &[u8]) -> Self {
        let end = VirtAddr(entry + bytes.len() as u64);
        self.functions.push(Function { name: name.to_owned(), entry: VirtAddr(entry), end, wrapper: false });
        self.code.insert(entry, bytes.to_vec());
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.functions.retain(|function| function.name != name);
        self
    }

    fn inlined(mut self, name: &str, into: &[&str]) -> Self {
        self.inlined.insert(name.to_owned(), into.iter().map(ToString::to_string).collect());
        self
    }

    /// Overwrites the function's first bytes.
    fn starting(mut self, name: &str, bytes: &[u8]) -> Self {
        for function in self.functions.iter().filter(|function| function.name == name) {
            let code = self.code.get_mut(&function.entry.0).expect("every function has code");
            code[..bytes.len()].copy_from_slice(bytes);
        }
        self
    }
}

impl Image for Made {
    type Error = String;

    fn architecture(&self) -> Architecture {
        self.architecture
    }

    fn functions_named(&self, name: &str) -> Result<Vec<Function>, String> {
        Ok(self.functions.iter().filter(|function| function.name == name).cloned().collect())
    }

    fn inlined_into(&self, name: &str) -> Result<Vec<String>, String> {
        Ok(self.inlined.get(name).cloned().unwrap_or_default())
    }

    fn code(&self, at: VirtAddr, buf: &mut [u8]) -> Result<(), String> {
        let bytes = self.code.get(&at.0).and_then(|code| code.get(..buf.len())).ok_or("no such code")?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    fn file_offset(&self, at: VirtAddr) -> Option<FileOffset> {
        self.in_file.then_some(FileOffset(at.0 & 0xf_ffff))
    }
}

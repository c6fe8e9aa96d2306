//! Fingerprint of the sources that the committed eBPF objects are built from. The agent's build script and `cargo xtask
//! ebpf` both include this file, so that they mean the same sources and the same sum.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Files and folders below the repository's root that the objects depend on.
const SOURCES: [&str; 6] = [
    "ebpf/src",
    "ebpf/Cargo.toml",
    "ebpf/Cargo.lock",
    "common/src",
    "common/Cargo.toml",
    "ebpf/objects/fingerprint.rs",
];

/// Hexadecimal FNV-1a sum, 64 bits, over the paths and contents of all source files in the order of their paths.
///
/// # Errors
///
/// Those of reading the files.
pub(crate) fn of_sources(root: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    for source in SOURCES {
        collect(&root.join(source), &mut files)?;
    }
    files.sort();
    let mut sum = 0xcbf2_9ce4_8422_2325_u64;
    for file in files {
        let name = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
        let contents = fs::read(&file)?;
        for byte in name.bytes().chain([0]).chain(contents).chain([0]) {
            sum = (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    Ok(format!("{sum:016x}"))
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if !path.is_dir() {
        files.push(path.to_path_buf());
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        collect(&entry?.path(), files)?;
    }
    Ok(())
}

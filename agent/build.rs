//! Hands the committed eBPF object of the target's architecture to the kernel stage.
//!
//! The objects are in `ebpf/objects`, beside a lock that says what they were built from. Whoever changes those sources and
//! does not run `cargo xtask ebpf` gets a warning here, and an error from CI.

use std::{env, fs, path::Path};

#[path = "../ebpf/objects/fingerprint.rs"]
mod fingerprint;

fn main() {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let root = Path::new(&manifest).parent().unwrap_or(Path::new(".."));
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let object = root.join(format!("ebpf/objects/{arch}.o"));
    if !object.is_file() {
        println!(
            "cargo::error=parkranger knows the registers of x86_64 and aarch64, not of {arch}: there is no {}",
            object.display()
        );
        return;
    }
    let lock = root.join("ebpf/objects/lock.toml");
    for path in ["ebpf/src", "ebpf/Cargo.toml", "ebpf/Cargo.lock", "ebpf/objects", "common/src", "common/Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    let locked = fs::read_to_string(lock).unwrap_or_default();
    let is_current = fingerprint::of_sources(root).is_ok_and(|sum| locked.contains(&format!("sources = \"{sum}\"")));
    if !is_current {
        println!(
            "cargo::warning=the eBPF objects in ebpf/objects are not built from the sources as they are: run `cargo xtask ebpf`"
        );
    }
    println!("cargo::rustc-env=PARKRANGER_EBPF_OBJECT={}", object.display());
}

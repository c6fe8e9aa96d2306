//! Finds the eBPF object that `cargo xtask build` made and hands its path to the kernel stage.
//!
//! Without the object, or without the `kernel` feature that goes with it, the build stops here with one sentence.

use std::{env, path::PathBuf, process};

fn main() {
    println!("cargo::rerun-if-env-changed=PARKRANGER_EBPF_OBJECT");
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let object = env::var_os("PARKRANGER_EBPF_OBJECT").map_or_else(
        || {
            let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
            manifest.join(format!("../target/ebpf/{arch}/parkranger-ebpf"))
        },
        PathBuf::from,
    );
    println!("cargo::rerun-if-changed={}", object.display());
    if env::var_os("CARGO_FEATURE_KERNEL").is_none() || !object.is_file() {
        println!(
            "cargo::error=parkranger's eBPF half is built separately: run `cargo xtask build`, which builds both."
        );
        process::exit(1);
    }
    println!("cargo::rustc-env=PARKRANGER_EBPF_OBJECT={}", object.display());
}

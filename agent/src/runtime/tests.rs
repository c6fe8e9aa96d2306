//! Layouts and wait reasons of real binaries.

use std::sync::Arc;

use super::{Layout, LayoutSource, WaitReasons};
use crate::binary::{
    Binary,
    testing::{VARIANTS, Variant, toolchains},
};

/// The table is generated from DWARF; every toolchain at hand must still say the same.
#[test]
fn the_table_is_what_dwarf_says() {
    for toolchain in toolchains() {
        let plain = toolchain.program(Variant::Plain).binary();
        let by_dwarf = Layout::of(&plain).expect("a layout");
        assert_eq!(by_dwarf.source, LayoutSource::Dwarf);
        let version = format!("1.{}", toolchain.minor);
        for variant in [Variant::Stripped, Variant::Arm64] {
            let by_table = Layout::of(&toolchain.program(variant).binary()).expect("a layout");
            assert_eq!(by_table.source, LayoutSource::Table { version: version.clone() });
            assert_eq!(by_table, Layout { source: by_table.source.clone(), ..by_dwarf.clone() });
        }
    }
}

#[test]
fn a_newer_go_gets_the_newest_layout_and_an_older_none() {
    for toolchain in toolchains() {
        let bytes = &toolchain.program(Variant::Stripped).bytes;
        let with_version = |version: &str| {
            let old = format!("go1.{}", toolchain.minor);
            assert_eq!(old.len(), version.len());
            let mut bytes = bytes.clone();
            let blob = crate::binary::bytes::find(&bytes, b"\xff Go buildinf:\x08").expect("a blob");
            let at = blob + crate::binary::bytes::find(&bytes[blob..], old.as_bytes()).expect("a version");
            bytes[at..at + version.len()].copy_from_slice(version.as_bytes());
            Binary::parse(Arc::new(bytes)).expect("a Go binary")
        };
        let newer = Layout::of(&with_version("go1.99")).expect("a layout");
        assert!(matches!(newer.source, LayoutSource::NewestKnown { .. }), "{:?}", newer.source);
        assert!(Layout::of(&with_version("go1.18")).is_err());
    }
}

#[test]
fn wait_reasons_of_every_variant() {
    for toolchain in toolchains() {
        let of = |variant| WaitReasons::of(&toolchain.program(variant).binary()).expect("wait reasons");
        let plain = of(Variant::Plain);
        for variant in VARIANTS {
            assert_eq!(of(variant), plain, "1.{} {variant:?}", toolchain.minor);
        }
        assert_eq!(plain.name(0), Some(""));
        let number = |name: &str| (0..=u8::MAX).find(|&reason| plain.name(reason) == Some(name));
        let (select, receive, sleep) = if toolchain.minor >= 26 { (18, 19, 14) } else { (9, 14, 19) };
        let sleep = if toolchain.minor == 25 { 20 } else { sleep };
        assert_eq!(number("select"), Some(select));
        assert_eq!(number("chan receive"), Some(receive));
        assert_eq!(number("sleep"), Some(sleep));
        let last = match toolchain.minor {
            ..=20 => "debug call",
            21 => "stopping the world",
            22 => "coroutine",
            23 => return,
            24 => "synctest.Wait",
            _ => plain.name(plain.len() as u8 - 1).expect("the last"),
        };
        assert!(number(last).is_some(), "{last}");
        assert_eq!(plain.name(plain.len() as u8), None);
    }
}

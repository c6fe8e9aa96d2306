//! The folder where a distribution keeps debug information in files of their own.
//!
//! Only the host's is looked into. A container's own would have to be reached by paths that the container chose, and may
//! be on a file system that answers when it likes. Nothing outside the folder is opened, whatever a link in it says.

use std::{
    fs::File,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

use super::FileSource;
use crate::binary::{Binary, BinaryError, DebugProof, Source};

/// A folder with debug files, in the order of GDB: `.build-id/ab/cdef….debug`, then the path of the binary's own folder.
#[derive(Clone, Debug)]
pub struct DebugFolder {
    path: PathBuf,
}

impl Default for DebugFolder {
    fn default() -> Self {
        Self { path: PathBuf::from("/usr/lib/debug") }
    }
}

impl DebugFolder {
    /// Another folder than the host's.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Reads a binary; one without DWARF gets its debug file where there is one. A file that is refused is logged.
    ///
    /// # Errors
    ///
    /// As [`Binary::parse`].
    pub fn read_binary(&self, source: FileSource) -> Result<Binary, BinaryError> {
        let path = source.path();
        let mut binary = Binary::parse(Arc::new(source))?;
        if !binary.has_dwarf() {
            self.add_to(&mut binary, path.as_deref());
        }
        Ok(binary)
    }

    fn add_to(&self, binary: &mut Binary, executable: Option<&Path>) {
        let by_id = binary.gnu_build_id().and_then(path_by_id).map(|path| (path, DebugProof::BuildId));
        let by_link = binary.debug_link().zip(executable).and_then(|(link, executable)| {
            let folder = executable.parent()?.strip_prefix("/").ok()?;
            let plain = folder.components().all(|part| matches!(part, Component::Normal(_)));
            plain.then(|| (folder.join(link.name), DebugProof::Crc(link.crc)))
        });
        for (path, proof) in by_id.into_iter().chain(by_link) {
            let Some(source) = self.open(&path) else { continue };
            let (source, shown) = (Arc::new(source) as Arc<dyn Source>, self.path.join(path));
            match binary.add_debug_file(&source, proof) {
                Ok(()) => {
                    tracing::debug!("debug information from {}", shown.display());
                    return;
                }
                Err(error) => tracing::warn!("the debug file {} is not used: {error}", shown.display()),
            }
        }
    }

    /// Opens a file below the folder. `None` where there is none: also for a link that leads out, or no plain file.
    fn open(&self, path: &Path) -> Option<FileSource> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(CWD, &self.path, flags, Mode::empty()).ok()?;
        // Nothing waits for the other end of a pipe.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let file = File::from(openat2(&folder, path, flags, Mode::empty(), resolve).ok()?);
        if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            return None;
        }
        FileSource::new(Arc::new(file)).ok().map(|(source, _)| source)
    }
}

/// Below the folder, the file of a build id.
fn path_by_id(id: &[u8]) -> Option<PathBuf> {
    /// Two digits name a folder; build ids have 16 to 20 bytes, in the widest form 64.
    const LENGTHS: std::ops::RangeInclusive<usize> = 2..=64;
    let (first, rest) = id.split_first().filter(|_| LENGTHS.contains(&id.len()))?;
    let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(PathBuf::from(format!(".build-id/{first:02x}/{rest}.debug")))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, process::Command};

    use super::*;
    use crate::{
        address::VirtAddr,
        binary::testing::{Variant, toolchains},
        runtime::{Layout, LayoutSource},
        symbols::{SymbolSource, Symbolizer},
    };

    fn objcopy(arguments: &[&str], folder: &Path) {
        let status = Command::new("objcopy").args(arguments).current_dir(folder).status().expect("objcopy (binutils)");
        assert!(status.success(), "objcopy {arguments:?}");
    }

    fn read(debug: &Path, program: &Path) -> Binary {
        let (source, _) = FileSource::new(Arc::new(File::open(program).unwrap())).unwrap();
        DebugFolder::at(debug.to_owned()).read_binary(source).unwrap()
    }

    /// Splits each toolchain's program, puts its debug file in a folder of debug files, and reads it with that.
    #[test]
    #[ignore = "reads real Go programs: `cargo xtask test` builds them"]
    fn a_stripped_binary_gets_the_names_and_the_layout_of_its_debug_file() {
        for toolchain in toolchains() {
            let folder = tempfile::tempdir().unwrap();
            let (root, debug) = (folder.path(), folder.path().join("debug"));
            let whole = toolchain.program(Variant::Plain);
            fs::copy(&whole.path, root.join("whole")).unwrap();
            // As a linker writes it: sizes of owner and id, the kind, both padded to four bytes.
            let note = [&[4, 0, 0, 0, 8, 0, 0, 0, 3, 0, 0, 0], b"GNU\0".as_slice(), b"\x01\xab\xcdunique"].concat();
            fs::write(root.join("note"), &note[..24]).unwrap();
            if whole.binary().gnu_build_id().is_none() {
                objcopy(&["--add-section", ".note.gnu.build-id=note", "whole"], root);
            }
            objcopy(&["--only-keep-debug", "whole", "program.debug"], root);
            objcopy(&["--strip-all", "--add-gnu-debuglink=program.debug", "whole", "program"], root);
            let program = root.join("program");
            assert!(!read(&debug, &program).has_debug_file(), "there is no folder yet");

            let beside = debug.join(root.strip_prefix("/").unwrap());
            fs::create_dir_all(&beside).unwrap();
            fs::copy(root.join("program.debug"), beside.join("program.debug")).unwrap();
            let mut binary = read(&debug, &program);
            assert!(binary.has_debug_file() && !binary.has_dwarf());
            let layout = Layout::of(&binary).unwrap();
            assert_eq!(layout.source, LayoutSource::DebugFile);
            let own = whole.binary();
            assert_eq!(Layout { source: LayoutSource::Dwarf, ..layout }, Layout::of(&own).unwrap());
            let main = own.functions_named("main.main").unwrap()[0].entry;
            let frames =
                |binary| Symbolizer::new(Arc::new(binary), SymbolSource::Dwarf).unwrap().frames(VirtAddr(main.0 + 1));
            let (by_file, by_own) = (frames(binary), frames(Binary::parse(Arc::new(whole.bytes.clone())).unwrap()));
            assert_eq!(by_file.unwrap(), by_own.unwrap());

            // One bit of it changed, and it is not the file that was named.
            let mut bytes = fs::read(root.join("program.debug")).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            fs::write(beside.join("program.debug"), &bytes).unwrap();
            assert!(!read(&debug, &program).has_debug_file(), "another checksum");

            binary = read(&debug, &program);
            let path = binary.gnu_build_id().and_then(path_by_id).expect("a build id");
            fs::create_dir_all(debug.join(&path).parent().unwrap()).unwrap();
            fs::copy(root.join("program.debug"), debug.join(&path)).unwrap();
            assert!(read(&debug, &program).has_debug_file(), "by build id");
            fs::copy("/bin/true", debug.join(&path)).unwrap();
            assert!(!read(&debug, &program).has_debug_file(), "another program's");
        }
    }

    #[test]
    fn nothing_outside_the_folder_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let debug = folder.path().join("debug");
        fs::create_dir_all(debug.join(".build-id/ab")).unwrap();
        fs::write(folder.path().join("outside"), b"x").unwrap();
        fs::write(debug.join("inside"), b"x").unwrap();
        symlink("/etc/passwd", debug.join("absolute")).unwrap();
        symlink("../outside", debug.join("up")).unwrap();
        symlink("../../inside", debug.join(".build-id/ab/cd.debug")).unwrap();
        assert!(Command::new("mkfifo").arg(debug.join("pipe")).status().unwrap().success());
        let opens = |path: &str| DebugFolder::at(debug.clone()).open(Path::new(path)).is_some();
        assert!(opens("inside") && opens(".build-id/ab/cd.debug"));
        for path in ["absolute", "up", "../outside", "/etc/passwd", "pipe", ".build-id", "missing"] {
            assert!(!opens(path), "{path}");
        }
    }

    #[test]
    fn a_build_id_gives_a_path() {
        assert_eq!(path_by_id(&[0xab, 0xcd, 0x01]), Some(PathBuf::from(".build-id/ab/cd01.debug")));
        assert_eq!(path_by_id(&[0xab]), None);
        assert_eq!(path_by_id(&[]), None);
        assert_eq!(path_by_id(&[0; 4096]), None);
    }
}

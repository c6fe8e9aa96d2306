//! Files that only their owner may read, written where others may write, too.
//!
//! A file is made anew beside its place, under a name that nobody can foresee, and then moved there: what was at the place is
//! replaced, never followed and never written to. So a link planted there leads nowhere, and a file made there by another
//! user does not stay theirs.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileTypeExt as _,
    path::Path,
};

/// Has `write` write a file that is then at `path`, with mode 0600. A terminal, pipe or other device that is there is written
/// to as it is.
///
/// # Errors
///
/// Those of `write`, and of making and moving the file; then nothing at `path` has changed. A symbolic link is refused.
pub fn write(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => {
            return Err(io::Error::other(format!(
                "{} is a symbolic link: name the file itself (- is standard output)",
                path.display()
            )));
        }
        Ok(metadata) if !metadata.is_file() && !metadata.is_dir() => {
            let kind = metadata.file_type();
            debug_assert!(kind.is_char_device() || kind.is_fifo() || kind.is_block_device() || kind.is_socket());
            let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
            let device = rustix::fs::open(path, flags, rustix::fs::Mode::empty())?;
            return write(&mut File::from(device));
        }
        _ => {}
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Made with O_EXCL and mode 0600.
    let mut new = tempfile::Builder::new().prefix(".parkranger-").tempfile_in(folder)?;
    write(new.as_file_mut())?;
    new.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    };

    use super::*;

    #[test]
    fn a_file_made_there_before_is_replaced_and_a_planted_link_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("dump"), folder.path().join("other"));
        fs::write(&path, "theirs").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let theirs = fs::metadata(&path).unwrap().ino();
        write(&path, |file| file.write_all(b"ours")).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"ours");
        assert!(metadata.ino() != theirs && metadata.mode() & 0o777 == 0o600);

        fs::write(&other, "precious").unwrap();
        fs::remove_file(&path).unwrap();
        symlink(&other, &path).unwrap();
        assert!(write(&path, |file| file.write_all(b"ours")).is_err());
        assert_eq!(fs::read(&other).unwrap(), b"precious");
    }

    #[test]
    fn what_fails_leaves_everything_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dump");
        fs::write(&path, "before").unwrap();
        assert!(write(&path, |_| Err(io::Error::other("broken"))).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"before");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn devices_are_written_to() {
        write(Path::new("/dev/null"), |file| file.write_all(b"x")).unwrap();
        assert!(fs::symlink_metadata("/dev/null").unwrap().file_type().is_char_device());
    }
}

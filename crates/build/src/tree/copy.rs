//! Copies of directory trees.

use std::fs::{self, File, FileTimes, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::{TreeError, normalize};

/// Copies a tree: contents, permissions, modification times and links.
///
/// A link that leads out of the tree, or absolutely into it, is rewritten so that the copy sees
/// the same file outside and its own file inside. Sockets, pipes and devices are left out: they
/// are no source. `to` must not exist.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> Result<(), TreeError> {
    let metadata = fs::metadata(from).map_err(TreeError::io("read", from))?;
    if !metadata.is_dir() {
        return Err(TreeError::NotADirectory(from.to_path_buf()));
    }
    let from = from
        .canonicalize()
        .map_err(TreeError::io("resolve", from))?;
    Copy { from: &from, to }.directory(Path::new(""), &metadata)
}

struct Copy<'a> {
    from: &'a Path,
    to: &'a Path,
}

impl Copy<'_> {
    fn directory(&self, relative: &Path, metadata: &Metadata) -> Result<(), TreeError> {
        let (from, to) = (self.from.join(relative), self.to.join(relative));
        fs::create_dir(&to).map_err(TreeError::io("create", &to))?;
        let entries = fs::read_dir(&from).map_err(TreeError::io("read", &from))?;
        for entry in entries {
            let entry = entry.map_err(TreeError::io("read", &from))?;
            self.entry(&relative.join(entry.file_name()))?;
        }
        fs::set_permissions(&to, metadata.permissions())
            .map_err(TreeError::io("set the permissions of", &to))?;
        let handle = File::open(&to).map_err(TreeError::io("open", &to))?;
        keep_time(&handle, metadata).map_err(TreeError::io("set the time of", &to))
    }

    fn entry(&self, relative: &Path) -> Result<(), TreeError> {
        let (from, to) = (self.from.join(relative), self.to.join(relative));
        let metadata = fs::symlink_metadata(&from).map_err(TreeError::io("read", &from))?;
        if metadata.is_dir() {
            self.directory(relative, &metadata)
        } else if metadata.is_symlink() {
            self.link(&from, &to)
        } else if metadata.is_file() {
            copy_file(&from, &to, &metadata).map_err(TreeError::io("copy", &from))
        } else {
            Ok(())
        }
    }

    fn link(&self, from: &Path, to: &Path) -> Result<(), TreeError> {
        let target = fs::read_link(from).map_err(TreeError::io("read the link", from))?;
        let target = self.translate(from.parent().unwrap_or(self.from), target);
        symlink(target, to).map_err(TreeError::io("create the link", to))
    }

    /// What a link in `directory` must say in the copy.
    fn translate(&self, directory: &Path, target: PathBuf) -> PathBuf {
        let full = normalize(directory, &target);
        match full.strip_prefix(self.from) {
            Ok(inside) if target.is_absolute() => self.to.join(inside),
            Ok(_) => target,
            Err(_) => full,
        }
    }
}

fn copy_file(from: &Path, to: &Path, metadata: &Metadata) -> io::Result<()> {
    fs::copy(from, to)?;
    // A read-only file cannot be opened for writing, but its owner may set its time.
    keep_time(&File::open(to)?, metadata)
}

fn keep_time(file: &File, metadata: &Metadata) -> io::Result<()> {
    let times = FileTimes::new()
        .set_modified(metadata.modified()?)
        .set_accessed(metadata.accessed()?);
    file.set_times(times)
}

/// Removes a tree, read-only directories in it too. It is no error if there is none.
pub(crate) fn remove_tree(path: &Path) -> Result<(), TreeError> {
    let result = match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            unlock(path).and_then(|()| fs::remove_dir_all(path))
        }
        other => other,
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(TreeError::Io {
            action: "remove",
            path: path.to_path_buf(),
            error,
        }),
        _ => Ok(()),
    }
}

fn unlock(directory: &Path) -> io::Result<()> {
    fs::set_permissions(directory, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            unlock(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs::{self, FileTimes, Permissions};
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::os::unix::net::UnixListener;
    use std::path::{Path, PathBuf};
    use std::time::{Duration, SystemTime};

    use super::{copy_tree, remove_tree};
    use crate::tree::TreeError;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("set");
    }

    #[test]
    fn contents_permissions_and_times_are_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        let locked = from.join("sub/locked");
        fs::create_dir_all(&locked).expect("created");
        fs::create_dir(from.join(".git")).expect("created");
        let names = [
            &b"sub/locked/\xff name"[..],
            b".git/HEAD",
            b"script",
            b"secret",
        ];
        let path = |root: &Path, name: &[u8]| root.join(OsStr::from_bytes(name));
        for name in names {
            fs::write(path(&from, name), name).expect("written");
        }
        for (name, mode) in [("script", 0o755), ("secret", 0o400), ("sub/locked", 0o555)] {
            set_mode(&from.join(name), mode);
        }
        let past = SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
        for name in ["script", "secret", "sub/locked", "sub"] {
            let times = FileTimes::new().set_modified(past);
            let file = fs::File::open(from.join(name)).expect("opened");
            file.set_times(times).expect("set");
        }
        copy_tree(&from, &to).expect("copied");
        for name in names {
            assert_eq!(fs::read(path(&to, name)).expect("copied"), name);
        }
        for name in ["script", "secret", "sub/locked", "sub", ".git/HEAD"] {
            let old = fs::metadata(from.join(name)).expect("there");
            let new = fs::metadata(to.join(name)).expect("copied");
            assert_eq!(old.mode(), new.mode(), "{name}");
            assert_eq!(old.modified().ok(), new.modified().ok(), "{name}");
            assert_ne!(old.ino(), new.ino(), "{name}");
        }
        remove_tree(&to).expect("removed");
        assert!(!to.exists());
        remove_tree(&to).expect("nothing to remove");
        set_mode(&locked, 0o755);
    }

    #[test]
    fn links_lead_to_the_same_outside_and_to_the_copy_inside() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().canonicalize().expect("a directory");
        let (from, to) = (root.join("from"), root.join("deeper/to"));
        fs::create_dir_all(from.join("sub")).expect("created");
        fs::create_dir(root.join("deeper")).expect("created");
        fs::write(from.join("file"), "file").expect("written");
        let outside = root.join("outside");
        for (link, target) in [
            ("sub/inside", PathBuf::from("../file")),
            ("sub/absolute", from.join("file")),
            ("sub/out", PathBuf::from("../../outside")),
            ("out", outside.clone()),
            ("gone", PathBuf::from("nothing")),
            ("directory", PathBuf::from("sub")),
        ] {
            symlink(target, from.join(link)).expect("linked");
        }
        copy_tree(&from, &to).expect("copied");
        for (link, expected) in [
            ("sub/inside", PathBuf::from("../file")),
            ("sub/absolute", to.join("file")),
            ("sub/out", outside.clone()),
            ("out", outside),
            ("gone", PathBuf::from("nothing")),
            ("directory", PathBuf::from("sub")),
        ] {
            let found = fs::read_link(to.join(link)).expect("a link");
            assert_eq!(found, expected, "{link}");
        }
    }

    #[test]
    fn what_is_no_source_is_left_out() {
        let directory = tempfile::tempdir().expect("a directory");
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        fs::create_dir(&from).expect("created");
        let _listener = UnixListener::bind(from.join("socket")).expect("bound");
        fs::write(from.join("file"), "file").expect("written");
        copy_tree(&from, &to).expect("copied");
        assert!(to.join("file").exists());
        assert!(!to.join("socket").exists());
        let error = copy_tree(&from.join("file"), &to).expect_err("no directory");
        assert!(matches!(error, TreeError::NotADirectory(_)), "{error}");
    }
}

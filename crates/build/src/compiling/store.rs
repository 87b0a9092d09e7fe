//! Files kept by content.

use std::fs;
use std::hash::{DefaultHasher, Hasher as _};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Keeps content below `directory` and returns its file, which is the same for equal content.
///
/// Any number of processes may do so at the same time.
pub(crate) fn keep(directory: &Path, content: &[u8]) -> io::Result<PathBuf> {
    let hash = hash(content);
    for number in 0_u32.. {
        let path = directory.join(format!("{hash:032x}-{number}.o"));
        match fs::read(&path) {
            Ok(found) if found == content => return Ok(path),
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(content)?;
        match file.persist_noclobber(&path) {
            Ok(_) => return Ok(path),
            // Another process was faster: look at what it has kept.
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                if fs::read(&path)? == content {
                    return Ok(path);
                }
            }
            Err(error) => return Err(error.error),
        }
    }
    unreachable!("a file name is found before numbers run out")
}

/// 128 bits that tell contents of one build apart.
pub(super) fn hash(content: &[u8]) -> u128 {
    let half = |seed: u8| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u8(seed);
        hasher.write(content);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

#[cfg(test)]
mod tests {
    use super::keep;
    use std::fs;

    #[test]
    fn equal_content_is_one_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let keep = |content: &[u8]| keep(directory.path(), content).expect("kept");
        let first = keep(b"one");
        assert_eq!(keep(b"one"), first);
        let second = keep(b"two");
        assert_ne!(second, first);
        assert_eq!(fs::read(first).expect("readable"), b"one");
        assert_eq!(fs::read(second).expect("readable"), b"two");
    }

    #[test]
    fn content_whose_name_is_taken_gets_another_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = keep(directory.path(), b"one").expect("kept");
        fs::write(&first, b"something else").expect("written");
        let second = keep(directory.path(), b"one").expect("kept");
        assert_ne!(second, first);
        assert_eq!(fs::read(second).expect("readable"), b"one");
    }
}

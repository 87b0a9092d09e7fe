//! Where separate debug files lie (GDB manual, "Debugging Information in Separate Files").

use std::path::{Path, PathBuf};

use crate::BuildId;

const DEBUG_ROOT: &str = "/usr/lib/debug";

/// Contents of a `.gnu_debuglink` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DebugLink {
    /// File name without directories.
    pub file_name: String,
    /// CRC-32 of the debug file. Not checked by this crate: the build-id decides.
    pub crc: u32,
}

/// Path of the debug file that belongs to `id`, below the directory for debug files.
#[must_use]
pub fn build_id_path(id: &BuildId) -> PathBuf {
    let hex = id.to_string();
    let (directory, file) = hex.split_at(2);
    Path::new(DEBUG_ROOT)
        .join(".build-id")
        .join(directory)
        .join(format!("{file}.debug"))
}

/// Paths at which the debug file named by `link` may lie for the object at `object` (an
/// absolute path), in the order in which they are to be tried.
#[must_use]
pub fn debug_link_paths(object: &Path, link: &DebugLink) -> Vec<PathBuf> {
    let directory = object.parent().unwrap_or(Path::new("/"));
    let below_root = directory.strip_prefix("/").unwrap_or(directory);
    vec![
        directory.join(&link.file_name),
        directory.join(".debug").join(&link.file_name),
        Path::new(DEBUG_ROOT).join(below_root).join(&link.file_name),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computes_the_usual_places() {
        let id = BuildId::from_bytes(&[0x12, 0x34, 0xcd]).unwrap();
        assert_eq!(
            build_id_path(&id),
            Path::new("/usr/lib/debug/.build-id/12/34cd.debug")
        );
        let link = DebugLink {
            file_name: "x.debug".into(),
            crc: 0,
        };
        assert_eq!(
            debug_link_paths(Path::new("/usr/bin/x"), &link),
            [
                Path::new("/usr/bin/x.debug"),
                Path::new("/usr/bin/.debug/x.debug"),
                Path::new("/usr/lib/debug/usr/bin/x.debug"),
            ]
        );
    }
}

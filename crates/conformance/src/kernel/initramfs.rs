//! The guest's file system: an archive of the "newc" format (Linux, Documentation/driver-api/
//! early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use engraft_guest::{Context, Failure};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;

/// Names and links end on a multiple of this.
const ALIGNMENT: usize = 4;

/// Writes an archive with the first program, the modules, and another program with what it is
/// linked to.
pub(super) fn write(
    path: &Path,
    guest: &Path,
    modules: &[PathBuf],
    engraft: &Path,
) -> Result<(), Failure> {
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "sys", "modules", "bin"] {
        archive.add(directory, DIRECTORY, &[]);
    }
    archive.add(
        "bin/engraft",
        PROGRAM,
        &fs::read(engraft).context(engraft.display())?,
    );
    let mut made = BTreeSet::new();
    for library in list_libraries(engraft)? {
        let relative = library.strip_prefix("/").unwrap_or(&library);
        let mut above: Vec<&Path> = relative.ancestors().skip(1).collect();
        above.retain(|directory| !directory.as_os_str().is_empty());
        for directory in above.into_iter().rev() {
            if made.insert(directory.to_owned()) {
                archive.add(&directory.to_string_lossy(), DIRECTORY, &[]);
            }
        }
        let bytes = fs::read(&library).context(library.display())?;
        archive.add(&relative.to_string_lossy(), PROGRAM, &bytes);
    }
    archive.add("init", PROGRAM, &fs::read(guest).context(guest.display())?);
    for module in modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        let bytes = fs::read(module).context(module.display())?;
        archive.add(&format!("modules/{name}"), FILE, &bytes);
    }
    archive.add("TRAILER!!!", 0, &[]);
    fs::write(path, archive.0).context(path.display())
}

/// The dynamic linker and the libraries of a program, as ldd(1) finds them.
fn list_libraries(program: &Path) -> Result<Vec<PathBuf>, Failure> {
    let output = Command::new("ldd").arg(program).output().context("ldd")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = text
        .lines()
        .filter_map(|line| line.split_whitespace().find(|w| w.starts_with('/')));
    Ok(words.map(PathBuf::from).collect())
}

#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn add(&mut self, name: &str, mode: u32, bytes: &[u8]) {
        let inode = self.0.len() as u32 + 1;
        let (size, name_size) = (bytes.len() as u32, name.len() as u32 + 1);
        // Inode, mode, owner, group, links, time, size, device, special device, name, check sum.
        let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.0.extend(b"070701");
        for field in fields {
            self.0.extend(format!("{field:08x}").bytes());
        }
        self.0.extend(name.bytes());
        self.0.push(0);
        self.align();
        self.0.extend(bytes);
        self.align();
    }

    fn align(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::{Archive, FILE};

    #[test]
    fn entries_begin_at_multiples_of_four() {
        let mut archive = Archive::default();
        archive.add("name", FILE, b"12345");
        archive.add("x", FILE, b"");
        assert_eq!(&archive.0[..6], b"070701");
        assert_eq!(&archive.0[110..115], b"name\0");
        assert_eq!(&archive.0[116..121], b"12345");
        assert_eq!(&archive.0[124..130], b"070701");
        assert_eq!(archive.0.len() % 4, 0);
    }
}

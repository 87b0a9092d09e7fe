//! /proc/PID/maps.

use std::ops::Range;

use crate::error::Error;
use crate::identity::access_shared;

/// One line of /proc/PID/maps (proc_pid_maps(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Address behind the last byte.
    pub end: u64,
    /// PROT_READ.
    pub read: bool,
    /// PROT_WRITE.
    pub write: bool,
    /// PROT_EXEC.
    pub execute: bool,
    /// Offset in the file.
    pub offset: u64,
    /// Inode number of the file, 0 for none.
    pub inode: u64,
    /// Device of the file as printed.
    pub device: String,
    /// Path or pseudo-path, empty when anonymous.
    pub path: String,
}

impl Mapping {
    /// A mapping without access that stands for addresses that are taken.
    #[must_use]
    pub fn reserved(range: Range<u64>) -> Self {
        Self {
            start: range.start,
            end: range.end,
            read: false,
            write: false,
            execute: false,
            offset: 0,
            inode: 0,
            device: String::new(),
            path: String::new(),
        }
    }

    /// Whether the address lies inside.
    #[must_use]
    pub fn contains(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let flags = fields.next()?.as_bytes();
        let offset = fields.next()?;
        let device = fields.next()?;
        let inode = fields.next()?;
        let path = fields.next().unwrap_or("").trim_start();
        Some(Self {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            read: flags.first() == Some(&b'r'),
            write: flags.get(1) == Some(&b'w'),
            execute: flags.get(2) == Some(&b'x'),
            offset: u64::from_str_radix(offset, 16).ok()?,
            device: device.to_owned(),
            inode: inode.parse().ok()?,
            path: path.to_owned(),
        })
    }
}

/// All mappings in address order.
///
/// # Errors
///
/// [`Kind::Gone`](crate::Kind::Gone), or [`Kind::NotPermitted`](crate::Kind::NotPermitted)
/// when the kernel hides them.
pub fn read_maps(pid: i32) -> Result<Vec<Mapping>, Error> {
    let read = |path: &str| {
        let text = std::fs::read_to_string(path)?;
        let maps: Vec<Mapping> = text.lines().filter_map(Mapping::parse).collect();
        if maps.is_empty() {
            return Err(std::io::ErrorKind::NotFound.into()); // the thread is ending
        }
        Ok(maps)
    };
    access_shared(pid, "maps", read).map_err(|kind| Error::new(pid, "list mappings", kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_lines_with_and_without_path() {
        let line = "7f12a000-7f12c000 r-xp 00002000 fe:01 1234                   /usr/lib/a b.so (deleted)";
        let mapping = Mapping::parse(line).expect("valid line");
        assert_eq!(
            (mapping.start, mapping.end, mapping.offset),
            (0x7f12_a000, 0x7f12_c000, 0x2000)
        );
        assert!(mapping.read && !mapping.write && mapping.execute);
        assert_eq!(mapping.path, "/usr/lib/a b.so (deleted)");
        let anonymous = Mapping::parse("1000-2000 rw-p 00000000 00:00 0 ").expect("valid line");
        assert_eq!(anonymous.path, "");
        assert_eq!(Mapping::parse("garbage"), None);
    }

    #[test]
    fn finds_this_test_in_its_own_maps() {
        let here = finds_this_test_in_its_own_maps as fn() as usize as u64;
        let maps = read_maps(std::process::id().cast_signed()).expect("own maps");
        assert!(
            maps.iter()
                .any(|mapping| mapping.execute && mapping.contains(here))
        );
    }
}

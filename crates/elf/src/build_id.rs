//! Build-ids and the notes that carry them (gABI, "Note Section").

use std::fmt;
use std::str::FromStr;

/// Longest build-id that is accepted; linkers write 8 to 32 bytes, `--build-id=0x...` any.
const MAX_LENGTH: usize = 64;
const NT_GNU_BUILD_ID: u32 = 3;

/// The build-id of an object: 1 to 64 bytes that identify one result of the linker.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BuildId(Vec<u8>);

impl BuildId {
    /// The build-id with these bytes, or `None` unless there are 1 to 64 of them.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (1..=MAX_LENGTH)
            .contains(&bytes.len())
            .then(|| Self(bytes.to_vec()))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Finds the build-id among `notes`, the bytes of a PT_NOTE segment or SHT_NOTE section
    /// whose entries are aligned to `alignment` (8, or else 4).
    pub(crate) fn find_in_notes(notes: &[u8], alignment: u64) -> Option<Self> {
        let alignment = if alignment == 8 { 8 } else { 4 };
        let mut rest = notes;
        loop {
            let name_length = read_word(rest, 0)? as usize;
            let length = read_word(rest, 4)? as usize;
            let kind = read_word(rest, 8)?;
            let name = rest.get(12..12usize.checked_add(name_length)?)?;
            let start = (12 + name_length).checked_next_multiple_of(alignment)?;
            let end = start.checked_add(length)?;
            let description = rest.get(start..end)?;
            if kind == NT_GNU_BUILD_ID && name == b"GNU\0" {
                return Self::from_bytes(description);
            }
            rest = rest.get(end.checked_next_multiple_of(alignment)?..)?;
        }
    }
}

fn read_word(bytes: &[u8], offset: usize) -> Option<u32> {
    let word = bytes.get(offset..offset + 4)?;
    Some(u32::from_le_bytes(word.try_into().ok()?))
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text that is no build-id in hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a build-id is 2 to {} hexadecimal digits, two for each byte", 2 * MAX_LENGTH)]
pub struct NotABuildId;

impl FromStr for BuildId {
    type Err = NotABuildId;

    /// Reads what `Display` writes; upper case digits are taken, too.
    fn from_str(text: &str) -> Result<Self, NotABuildId> {
        if !text.bytes().all(|digit| digit.is_ascii_hexdigit()) || text.len() > 2 * MAX_LENGTH {
            return Err(NotABuildId);
        }
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let digit = |digit: u8| char::from(digit).to_digit(16).unwrap_or(0) as u8;
        let bytes: Vec<u8> = pairs
            .iter()
            .map(|[high, low]| digit(*high) << 4 | digit(*low))
            .collect();
        let id = Self::from_bytes(&bytes).filter(|_| rest.is_empty());
        id.ok_or(NotABuildId)
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BuildId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &[u8], kind: u32, description: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((name.len() as u32).to_le_bytes());
        bytes.extend((description.len() as u32).to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(name);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(description);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn finds_the_build_id_behind_other_notes() {
        let mut notes = note(b"GNU\0", 1, &[0; 16]);
        notes.extend(note(b"Rival\0", 3, &[1; 20]));
        notes.extend(note(b"GNU\0", 3, &[0xab; 20]));
        let id = BuildId::find_in_notes(&notes, 4).unwrap();
        assert_eq!(id.to_string(), "ab".repeat(20));
    }

    #[test]
    fn reads_what_it_writes() {
        let id = BuildId::from_bytes(&[0x00, 0xab, 0x7f]).unwrap();
        assert_eq!(id.to_string(), "00ab7f");
        assert_eq!("00AB7f".parse(), Ok(id));
        let long = "0".repeat(2 * MAX_LENGTH + 2);
        for bad in ["", "a", "abc", "0x12", "+1", "zz", "ab ", "\u{e9}1", &long] {
            assert_eq!(bad.parse::<BuildId>(), Err(NotABuildId), "{bad}");
        }
    }

    #[test]
    fn refuses_lengths_that_leave_the_notes() {
        let mut notes = note(b"GNU\0", 3, &[0xab; 20]);
        notes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(BuildId::find_in_notes(&notes, 4), None);
        notes[0..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(BuildId::find_in_notes(&notes, 8), None);
        assert_eq!(
            BuildId::find_in_notes(&note(b"GNU\0", 3, &[1; 65]), 4),
            None
        );
    }
}

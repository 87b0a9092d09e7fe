//! What perf has recorded: a header that says where the records are, and the records
//! (tools/perf/Documentation/perf.data-file-format.txt of Linux, perf_event_open(2)).

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: &[u8; 8] = b"PERFILE2";
/// Length of a file's header, as it says itself. A stream's is shorter.
const FILE_HEADER: usize = 104;

const RECORD_HEADER: usize = 8;
const PERF_RECORD_MMAP2: u32 = 10;
/// Followed by data that its length does not count.
const PERF_RECORD_AUXTRACE: u32 = 71;
/// In the record of a mapping a build-id takes the place of device and inode (Linux 5.12).
const PERF_RECORD_MISC_MMAP_BUILD_ID: u16 = 1 << 14;

/// Length of a mapping's record up to the end of what identifies the file.
const IDENTIFIED: usize = 64;
/// Where that begins.
const IDENTITY: usize = 40;

/// What perf has recorded, in a file.
pub(super) struct PerfData {
    file: File,
    /// Where the records are.
    records: Range<u64>,
}

/// The record of a mapping.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    /// The addresses.
    pub(super) range: Range<u64>,
    /// Where the mapped file's first byte would be.
    pub(super) file_start: u64,
    /// Where the record is.
    offset: u64,
    /// How it begins.
    start: [u8; IDENTIFIED],
}

/// Why a recording cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum PerfDataError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is not a file that perf record has written on this kind of machine")]
    Foreign,
    #[error("perf has not finished it")]
    Unfinished,
    #[error("the record at offset {0} is damaged")]
    Damaged(u64),
}

impl PerfDataError {
    /// The way out.
    pub(super) fn help(&self) -> Option<&'static str> {
        match self {
            Self::Foreign => Some("give a file of perf record -o FILE, not its standard output"),
            Self::Unfinished => Some("end perf record first, with SIGINT"),
            Self::Io(_) | Self::Damaged(_) => None,
        }
    }
}

impl PerfData {
    pub(super) fn open(path: &Path) -> Result<Self, PerfDataError> {
        let file = File::options().read(true).write(true).open(path)?;
        let mut header = [0; FILE_HEADER];
        let length = file.read_at(&mut header, 0)?;
        let whole = length == FILE_HEADER && word(&header, 8) == FILE_HEADER as u64;
        if !whole || !header.starts_with(MAGIC) {
            return Err(PerfDataError::Foreign);
        }
        let (start, size) = (word(&header, 40), word(&header, 48));
        if size == 0 {
            return Err(PerfDataError::Unfinished);
        }
        let records = start..start.saturating_add(size);
        Ok(Self { file, records })
    }

    /// The mappings of a process.
    pub(super) fn find_mappings(&self, pid: i32) -> Result<Vec<Mapping>, PerfDataError> {
        let mut reader = BufReader::new(&self.file);
        let mut at = reader.seek(SeekFrom::Start(self.records.start))?;
        let mut mappings = Vec::new();
        let mut record = Vec::new();
        while at < self.records.end {
            let damaged = |_| PerfDataError::Damaged(at);
            read_record(&mut reader, &mut record).map_err(damaged)?;
            mappings.extend(Mapping::parse(&record, at).filter(|mapping| mapping.is_of(pid)));
            let mut length = record.len() as u64;
            if kind(&record) == PERF_RECORD_AUXTRACE && record.len() >= 16 {
                let data = word(&record, 8);
                let distance = i64::try_from(data).map_err(|_| PerfDataError::Damaged(at))?;
                reader.seek_relative(distance)?;
                length = length.saturating_add(data);
            }
            at = at.saturating_add(length);
        }
        Ok(mappings)
    }

    /// Says by its build-id which file to read in place of what was mapped.
    pub(super) fn identify(
        &self,
        mapping: &Mapping,
        build_id: &[u8; 20],
    ) -> Result<(), PerfDataError> {
        let start = mapping.identified(build_id);
        Ok(self.file.write_all_at(&start, mapping.offset)?)
    }
}

impl Mapping {
    fn parse(record: &[u8], offset: u64) -> Option<Self> {
        let start = *record.first_chunk::<IDENTIFIED>()?;
        if kind(record) != PERF_RECORD_MMAP2 {
            return None;
        }
        let (address, length) = (word(record, 16), word(record, 24));
        Some(Self {
            range: address..address.saturating_add(length),
            file_start: address.wrapping_sub(word(record, 32)),
            offset,
            start,
        })
    }

    fn is_of(&self, pid: i32) -> bool {
        self.start[8..12] == pid.to_le_bytes()
    }

    /// The record's start with a build-id: its length, three bytes of nothing, itself.
    fn identified(&self, build_id: &[u8; 20]) -> [u8; IDENTIFIED] {
        let mut start = self.start;
        let misc = u16::from_le_bytes([start[4], start[5]]) | PERF_RECORD_MISC_MMAP_BUILD_ID;
        start[4..6].copy_from_slice(&misc.to_le_bytes());
        start[IDENTITY..IDENTITY + 4].copy_from_slice(&(build_id.len() as u32).to_le_bytes());
        start[IDENTITY + 4..].copy_from_slice(build_id);
        start
    }
}

/// A whole record, with its header: kind (4 bytes), misc (2), length of the whole (2).
fn read_record(reader: &mut impl Read, into: &mut Vec<u8>) -> io::Result<()> {
    into.resize(RECORD_HEADER, 0);
    reader.read_exact(into)?;
    let length = usize::from(u16::from_le_bytes([into[6], into[7]]));
    if length < RECORD_HEADER {
        return Err(io::ErrorKind::InvalidData.into());
    }
    into.resize(length, 0);
    reader.read_exact(&mut into[RECORD_HEADER..])
}

fn kind(record: &[u8]) -> u32 {
    word(record, 0) as u32
}

/// The 8 bytes at an offset, which must be there.
fn word(bytes: &[u8], offset: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const BUILD_ID: [u8; 20] = [7; 20];

    fn record(kind: u32, body: &[u8]) -> Vec<u8> {
        let mut record = kind.to_le_bytes().to_vec();
        record.extend(2_u16.to_le_bytes());
        record.extend((RECORD_HEADER as u16 + body.len() as u16).to_le_bytes());
        record.extend(body);
        record
    }

    fn mapping(pid: u32, address: u64, offset: u64) -> Vec<u8> {
        let mut body = [pid, pid].map(u32::to_le_bytes).concat();
        body.extend([address, 0x1000, offset].map(u64::to_le_bytes).concat());
        body.extend([0xee; 24]);
        body.extend([0; 8]);
        body.extend(b"/memfd:x");
        record(PERF_RECORD_MMAP2, &body)
    }

    fn recording(records: &[Vec<u8>]) -> tempfile::NamedTempFile {
        let records = records.concat();
        let mut header = MAGIC.to_vec();
        header.extend((FILE_HEADER as u64).to_le_bytes());
        header.resize(40, 0);
        header.extend((FILE_HEADER as u64).to_le_bytes());
        header.extend((records.len() as u64).to_le_bytes());
        header.resize(FILE_HEADER, 0);
        let mut file = tempfile::NamedTempFile::new().expect("file");
        file.write_all(&[header, records, vec![1; 30]].concat())
            .expect("written");
        file
    }

    #[test]
    fn mappings_are_found_behind_anything_else_and_identified() {
        // Followed by 5 bytes that its own length leaves out.
        let trace = [
            record(PERF_RECORD_AUXTRACE, &5_u64.to_le_bytes()),
            vec![9; 5],
        ]
        .concat();
        let records = [
            record(9, &[3; 100]),
            trace,
            mapping(8, 0x1000, 0),
            mapping(7, 0x9000, 0x2000),
            record(3, &[]),
        ];
        let file = recording(&records);
        let before = std::fs::read(file.path()).expect("read");
        let data = PerfData::open(file.path()).expect("open");
        let found = data.find_mappings(7).expect("sound");
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].range.clone(), found[0].file_start),
            (0x9000..0xa000, 0x7000)
        );
        data.identify(&found[0], &BUILD_ID).expect("written");
        let after = std::fs::read(file.path()).expect("read");
        let at = found[0].offset as usize;
        let mut expected = before;
        expected[at + 5] |= 0x40;
        expected[at + 40..at + 44].copy_from_slice(&[20, 0, 0, 0]);
        expected[at + 44..at + 64].copy_from_slice(&BUILD_ID);
        assert!(after == expected);
        // Once more changes nothing.
        let again = data.find_mappings(7).expect("sound");
        data.identify(&again[0], &BUILD_ID).expect("written");
        assert!(std::fs::read(file.path()).expect("read") == expected);
    }

    #[test]
    fn anything_else_is_refused() {
        let open = |bytes: &[u8]| {
            let file = tempfile::NamedTempFile::new().expect("file");
            std::fs::write(file.path(), bytes).expect("written");
            PerfData::open(file.path())
        };
        let stream = [&MAGIC[..], &16_u64.to_le_bytes(), &[0; 200]].concat();
        for bytes in [&b""[..], &b"PERFILE2"[..], &[0; 200], &stream] {
            assert!(matches!(open(bytes), Err(PerfDataError::Foreign)));
        }
        let empty = std::fs::read(recording(&[]).path()).expect("read");
        assert!(matches!(open(&empty), Err(PerfDataError::Unfinished)));
    }

    #[test]
    fn damage_ends_the_reading() {
        let records = [mapping(7, 0x1000, 0), record(9, &[0; 24])];
        let whole = recording(&records);
        let bytes = std::fs::read(whole.path()).expect("read");
        let find = |bytes: &[u8]| {
            std::fs::write(whole.path(), bytes).expect("written");
            PerfData::open(whole.path()).and_then(|data| data.find_mappings(7))
        };
        let second = (FILE_HEADER + records[0].len()) as u64;
        let cut_off = find(&bytes[..bytes.len() - 40]);
        assert!(matches!(cut_off, Err(PerfDataError::Damaged(at)) if at == second));
        let mut short = bytes;
        short[second as usize + 6] = 7;
        assert!(matches!(find(&short), Err(PerfDataError::Damaged(at)) if at == second));
    }
}

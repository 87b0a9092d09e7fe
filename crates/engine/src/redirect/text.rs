//! Code as it is read to plan redirects: bytes, and the functions in them.

use std::ops::Range;

use engraft_arch::reliance::{CallIndex, Function};
use engraft_elf::{ReadMemory, SliceMemory, Unreadable};
use nix::errno::Errno;

use super::Entry;
use crate::attached::Attached;
use crate::error::Error;
use crate::objects::LoadedObject;
use crate::space::Span;

/// Executable segments beyond this are not read: no object has one, a hostile header may
/// claim it.
const MAX_SEGMENT: u64 = 1 << 30;

/// Executable bytes, and where functions lie in them.
pub(crate) struct Text {
    segments: Vec<(u64, Vec<u8>)>,
    functions: Vec<Span>,
}

impl Text {
    /// An object's, as it was before anything was redirected.
    pub(crate) fn of_object<'a>(
        process: &Attached,
        object: &LoadedObject,
        redirected: impl IntoIterator<Item = &'a Entry>,
    ) -> Result<Self, Error> {
        let mut segments = Vec::new();
        for segment in object
            .image
            .segments
            .iter()
            .filter(|segment| segment.executable)
        {
            if segment.size > MAX_SEGMENT {
                let message = format!("its code is {} bytes long, more than 1 GiB", segment.size);
                return Err(Error::other(object.name.clone(), Errno::EFBIG, message));
            }
            let mut bytes = vec![0; segment.size as usize];
            process.memory.read_bytes(segment.address, &mut bytes)?;
            segments.push((segment.address, bytes));
        }
        for entry in redirected {
            restore(&mut segments, entry);
        }
        let symbols = object.symbols();
        let named = symbols
            .symbols()
            .iter()
            .filter(|symbol| symbol.is_function())
            .filter_map(|symbol| {
                Some(Span {
                    start: symbol.address,
                    size: symbols.function_size(symbol, None)?,
                })
            });
        // Frame descriptions cover every compiled function, named or not. Sections of stubs
        // count as functions: not every linker describes them.
        let described = object
            .cfi(&process.memory, &process.maps()?)
            .map(|cfi| cfi.functions())
            .unwrap_or_default();
        let unnamed = described.into_iter().chain(object.plt_sections());
        let unnamed = unnamed.map(|range| Span {
            start: range.start,
            size: range.end.saturating_sub(range.start),
        });
        Ok(Self::new(segments, named.chain(unnamed).collect()))
    }

    /// Code in one piece, such as a patch module's.
    pub(crate) fn in_one_piece(start: u64, bytes: Vec<u8>, functions: Vec<Span>) -> Self {
        Self::new(vec![(start, bytes)], functions)
    }

    fn new(mut segments: Vec<(u64, Vec<u8>)>, mut functions: Vec<Span>) -> Self {
        segments.sort_by_key(|(start, _)| *start);
        functions.retain(|span| span.size > 0);
        functions.sort_by_key(|span| span.start);
        Self {
            segments,
            functions,
        }
    }

    /// The functions that are known, by address; some more than once.
    pub(crate) fn functions(&self) -> &[Span] {
        &self.functions
    }

    /// The ranges of code that no known function covers.
    pub(crate) fn gaps(&self) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        for (start, bytes) in &self.segments {
            let end = start + bytes.len() as u64;
            let mut at = *start;
            for function in &self.functions {
                if function.start > at && function.start <= end {
                    gaps.push(at..function.start);
                }
                let behind = function.start.saturating_add(function.size);
                if function.start <= end {
                    at = at.max(behind);
                }
            }
            if at < end {
                gaps.push(at..end);
            }
        }
        gaps
    }

    /// The bytes from an address to the end of its segment.
    pub(crate) fn bytes_from(&self, address: u64) -> Option<&[u8]> {
        let (start, bytes) = self.segments.iter().rfind(|(start, _)| *start <= address)?;
        bytes.get((address - start) as usize..)
    }

    /// Direct calls and jumps among the functions.
    pub(crate) fn index(&self) -> CallIndex<'_> {
        CallIndex::build(self.functions.iter().filter_map(|span| {
            Some(Function {
                address: span.start,
                code: self.bytes_from(span.start)?.get(..span.size as usize)?,
            })
        }))
    }
}

fn restore(segments: &mut [(u64, Vec<u8>)], entry: &Entry) {
    for (start, bytes) in segments {
        let offset = entry.site.wrapping_sub(*start) as usize;
        let end = offset.saturating_add(entry.original.len());
        if let Some(place) = bytes.get_mut(offset..end) {
            place.copy_from_slice(&entry.original);
        }
    }
}

/// A target's memory, with code laid over it that is not there yet.
pub(crate) struct Overlay<'a> {
    pub(crate) below: &'a dyn ReadMemory,
    pub(crate) pieces: Vec<SliceMemory<'a>>,
}

impl ReadMemory for Overlay<'_> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Unreadable> {
        let covered = self
            .pieces
            .iter()
            .any(|piece| piece.read(address, buffer).is_ok());
        if covered {
            return Ok(());
        }
        self.below.read(address, buffer)
    }
}

//! Stack memory, read in bulk.

use engraft_elf::{ReadMemory, Unreadable};

const PAGE: u64 = 4096;
const FIRST_WINDOW: usize = 16 << 10;
const LARGEST_WINDOW: usize = 256 << 10;

/// Reads words of a stack through two windows: a walk moves upwards, and leaves the window it
/// is in only for the next one or for another stack below a signal frame.
pub(crate) struct StackReader<'m> {
    memory: &'m dyn ReadMemory,
    windows: [Window; 2],
}

#[derive(Default)]
struct Window {
    address: u64,
    bytes: Vec<u8>,
}

impl<'m> StackReader<'m> {
    pub(crate) fn new(memory: &'m dyn ReadMemory) -> Self {
        Self {
            memory,
            windows: Default::default(),
        }
    }

    /// The eight bytes at `address`.
    pub(crate) fn word(&mut self, address: u64) -> Result<u64, Unreadable> {
        if let Some(word) = self.cached(address) {
            return Ok(word);
        }
        self.load_window(address);
        if let Some(word) = self.cached(address) {
            return Ok(word);
        }
        let mut word = [0; 8];
        self.memory.read(address, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }

    /// Memory that is no stack, past the windows.
    pub(crate) fn memory(&self) -> &'m dyn ReadMemory {
        self.memory
    }

    fn cached(&self, address: u64) -> Option<u64> {
        self.windows.iter().find_map(|window| window.word(address))
    }

    /// Puts as large a window as is readable around `address`, in place of the older one.
    fn load_window(&mut self, address: u64) {
        let start = address & !(PAGE - 1);
        let mut length = self.windows[0].next_length(start);
        self.windows.swap(0, 1);
        let window = &mut self.windows[0];
        window.address = start;
        while length >= PAGE as usize {
            window.bytes.resize(length, 0);
            if self.memory.read(start, &mut window.bytes).is_ok() {
                return;
            }
            length /= 2;
        }
        window.bytes.clear();
    }
}

impl Window {
    fn word(&self, address: u64) -> Option<u64> {
        let offset = usize::try_from(address.checked_sub(self.address)?).ok()?;
        let bytes = self.bytes.get(offset..offset.checked_add(8)?)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }

    /// Windows grow while a walk climbs steadily, and start small elsewhere.
    fn next_length(&self, start: u64) -> usize {
        if !self.bytes.is_empty() && start == self.address.wrapping_add(self.bytes.len() as u64) {
            (self.bytes.len() * 2).clamp(FIRST_WINDOW, LARGEST_WINDOW)
        } else {
            FIRST_WINDOW
        }
    }
}

//! Memory of a process: bulk reads, writes that ignore page protection.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use engraft_elf::{ReadMemory, Unreadable};
use nix::errno::Errno;

use crate::error::{Error, Kind};
use crate::identity::{access_shared, is_being_killed};
use crate::maps::read_maps;
use crate::pod::{Pod, bytes_of, bytes_of_mut};
use crate::sys;

/// What stands for a transfer of no bytes: the address space that was opened is no more.
const NO_ADDRESS_SPACE: Errno = Errno::ESRCH;

/// Access to one process' memory. Needs PTRACE_MODE_ATTACH rights, no attachment.
///
/// The open file belongs to the address space, not to the process number: after an exec
/// accesses fail ([`Kind::Replaced`]) instead of reaching the new program.
#[derive(Debug)]
pub struct Memory {
    pid: i32,
    file: File,
}

impl Memory {
    /// Opens the memory of `pid`.
    ///
    /// # Errors
    ///
    /// [`Kind::Gone`] and [`Kind::NotPermitted`].
    pub fn open(pid: i32) -> Result<Self, Error> {
        let open = |path: &str| OpenOptions::new().read(true).write(true).open(path);
        let file =
            access_shared(pid, "mem", open).map_err(|kind| Error::new(pid, "open memory", kind))?;
        Ok(Self { pid, file })
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Fails when the process has ended, or has executed another program, since this was
    /// opened.
    ///
    /// # Errors
    ///
    /// [`Kind::Gone`] and [`Kind::Replaced`].
    pub fn check_alive(&self) -> Result<(), Error> {
        // Nothing is ever mapped there, but only a lost address space transfers no bytes.
        match self.file.read_at(&mut [0], 0) {
            Ok(0) => Err(self.memory_error("look at memory", 0, NO_ADDRESS_SPACE)),
            _ if is_being_killed(self.pid) => {
                Err(Error::new(self.pid, "look at memory", Kind::Gone))
            }
            _ => Ok(()),
        }
    }

    /// Fills `buffer` from `address`.
    ///
    /// # Errors
    ///
    /// [`Kind::Memory`] when any byte is not readable.
    pub fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.read_raw(address, buffer)
            .map_err(|errno| self.memory_error("read", address, errno))
    }

    fn read_raw(&self, address: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        if buffer.is_empty() {
            return Ok(());
        }
        self.file.read_exact_at(buffer, address).map_err(|error| {
            error
                .raw_os_error()
                .map_or(NO_ADDRESS_SPACE, Errno::from_raw)
        })
    }

    /// Reads one value.
    ///
    /// # Errors
    ///
    /// As [`Memory::read_bytes`].
    pub fn read<T: Pod>(&self, address: u64) -> Result<T, Error> {
        let mut value = T::zeroed();
        self.read_bytes(address, bytes_of_mut(&mut value))?;
        Ok(value)
    }

    /// Reads a zero-terminated string of at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// As [`Memory::read_bytes`]; a missing terminator is [`Kind::Strayed`].
    pub fn read_c_string(&self, address: u64, limit: usize) -> Result<String, Error> {
        let mut text = Vec::new();
        while text.len() < limit {
            let at = address + text.len() as u64;
            let mut chunk = [0u8; 64];
            // Up to the next 64-byte boundary, so that no unmapped page behind is touched.
            let count = 64 - (at % 64) as usize;
            self.read_bytes(at, &mut chunk[..count])?;
            match chunk[..count].iter().position(|byte| *byte == 0) {
                Some(end) => {
                    text.extend_from_slice(&chunk[..end]);
                    return Ok(String::from_utf8_lossy(&text).into_owned());
                }
                None => text.extend_from_slice(&chunk[..count]),
            }
        }
        let kind = Kind::Strayed(format!(
            "no string of at most {limit} bytes at {address:#x}"
        ));
        Err(Error::new(self.pid, "read string", kind))
    }

    /// Writes bytes whatever the protection of the pages is; private file pages are copied
    /// first, as a debugger's breakpoint does.
    ///
    /// # Errors
    ///
    /// [`Kind::Memory`]; on kernels that restrict /proc/PID/mem (Linux 6.12, proc_mem.force_override)
    /// a caller that has a stopped thread uses [`Memory::write_through`].
    pub fn write_bytes(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        self.write_raw(address, bytes)
            .map_err(|errno| self.memory_error("write", address, errno))
    }

    fn write_raw(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.file.write_all_at(bytes, address).map_err(|error| {
            error
                .raw_os_error()
                .map_or(NO_ADDRESS_SPACE, Errno::from_raw)
        })
    }

    /// Writes bytes like [`Memory::write_bytes`], falling back to PTRACE_POKEDATA through a
    /// thread that the caller holds stopped.
    ///
    /// # Errors
    ///
    /// [`Kind::Memory`] when both ways fail.
    pub fn write_through(&self, tid: i32, address: u64, bytes: &[u8]) -> Result<(), Error> {
        let result = match self.write_raw(address, bytes) {
            // The thread, too, may belong to another program by now.
            done @ (Ok(()) | Err(NO_ADDRESS_SPACE)) => done,
            Err(_) => poke_bytes(tid, address, bytes),
        };
        result.map_err(|errno| self.memory_error("write", address, errno))
    }

    /// Writes one value.
    ///
    /// # Errors
    ///
    /// As [`Memory::write_bytes`].
    pub fn write<T: Pod>(&self, address: u64, value: &T) -> Result<(), Error> {
        self.write_bytes(address, bytes_of(value))
    }

    fn memory_error(&self, context: &str, address: u64, errno: Errno) -> Error {
        let kind = match errno {
            NO_ADDRESS_SPACE if read_maps(self.pid).is_ok() => Kind::Replaced,
            NO_ADDRESS_SPACE => Kind::Gone,
            _ if read_maps(self.pid).is_err_and(|error| error.is_gone()) => Kind::Gone,
            errno => Kind::Memory { address, errno },
        };
        Error::new(self.pid, context, kind)
    }
}

fn poke_bytes(tid: i32, address: u64, bytes: &[u8]) -> Result<(), Errno> {
    let first = address & !7;
    let last = (address + bytes.len() as u64).next_multiple_of(8);
    for word_address in (first..last).step_by(8) {
        let mut word = sys::peek(tid, word_address)?.to_le_bytes();
        for (offset, byte) in word.iter_mut().enumerate() {
            let at = word_address + offset as u64;
            if let Some(new) = at
                .checked_sub(address)
                .and_then(|index| bytes.get(index as usize))
            {
                *byte = *new;
            }
        }
        sys::poke(tid, word_address, u64::from_le_bytes(word))?;
    }
    Ok(())
}

impl ReadMemory for Memory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Unreadable> {
        self.read_raw(address, buffer).map_err(|_| Unreadable {
            address,
            length: buffer.len(),
        })
    }
}

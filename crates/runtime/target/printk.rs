//! `printk` and what else writes formatted text.

use core::ffi::c_char;
use core::mem::MaybeUninit;

use crate::format::{Sink, format_into};
use crate::log::{self, MAX_TEXT};
use crate::va_list::{VaList, variadic};

/// Level of a message without prefix (the kernel: CONFIG_MESSAGE_LOGLEVEL_DEFAULT).
const DEFAULT_LEVEL: u32 = 4;

/// First byte of a level prefix (the kernel: KERN_SOH).
const START_OF_HEADER: u8 = 1;

variadic!("_printk", "8", "rsi", vprintk);
variadic!("printk", "8", "rsi", vprintk);
variadic!("engraft_scnprintf", "24", "rcx", engraft_vscnprintf);

/// `int vprintk(const char *format, va_list arguments)`: one record in the log. Returns the
/// length of the text without prefix and final newline.
///
/// # Safety
/// `format` is a C string and `arguments` fit it.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vprintk(format: *const c_char, arguments: *mut VaList) -> i32 {
    // Two more bytes for the prefix, one for the newline that is dropped.
    let mut buffer = MaybeUninit::<[u8; MAX_TEXT + 3]>::uninit();
    // SAFETY: the sink has the buffer for itself, the rest is the caller's contract.
    let sink = unsafe {
        let mut sink = Sink::new(buffer.as_mut_ptr().cast(), MAX_TEXT + 3);
        format_into(&mut sink, format.cast(), &mut *arguments);
        sink
    };
    let (level, text) = split_level(sink.written());
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    log::append(level, text);
    text.len() as i32
}

/// Takes level prefixes off, the last of which counts; `c` (continuation) is not a level.
fn split_level(mut text: &[u8]) -> (u32, &[u8]) {
    let mut level = DEFAULT_LEVEL;
    while let [START_OF_HEADER, mark, rest @ ..] = text {
        match mark {
            b'0'..=b'7' => level = u32::from(mark - b'0'),
            b'c' => {}
            _ => break,
        }
        text = rest;
    }
    (level, text)
}

/// `int vscnprintf(char *buffer, size_t size, const char *format, va_list arguments)`:
/// returns the number of characters written, the terminating zero not counted.
///
/// # Safety
/// `buffer` has room for `size` bytes, `format` is a C string and `arguments` fit it.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn engraft_vscnprintf(
    buffer: *mut c_char,
    size: usize,
    format: *const c_char,
    arguments: *mut VaList,
) -> i32 {
    let Some(room) = size.checked_sub(1) else {
        return 0;
    };
    // SAFETY: the caller's contract; one byte is kept for the terminating zero.
    unsafe {
        let mut sink = Sink::new(buffer.cast(), room);
        format_into(&mut sink, format.cast(), &mut *arguments);
        let length = sink.written().len();
        buffer.add(length).write(0);
        length as i32
    }
}

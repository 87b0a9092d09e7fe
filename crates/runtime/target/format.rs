//! printf's conversions as far as the kernel's printk has them (C11 7.21.6.1; the kernel's
//! printk-formats document for %p and its extensions). There is no floating point.
//!
//! A conversion that is not known is written as it stands and takes no argument.

use crate::va_list::VaList;

/// Where the text goes; what does not fit is dropped.
pub(crate) struct Sink {
    start: *mut u8,
    room: usize,
    length: usize,
}

impl Sink {
    /// A sink that fills `room` bytes at `start`.
    ///
    /// # Safety
    /// The bytes are writable and belong to the sink alone while it exists.
    pub(crate) unsafe fn new(start: *mut u8, room: usize) -> Self {
        Self {
            start,
            room,
            length: 0,
        }
    }

    /// What has been written.
    pub(crate) fn written(&self) -> &[u8] {
        // SAFETY: the first `length` bytes have been written and belong to the sink.
        unsafe { core::slice::from_raw_parts(self.start, self.length) }
    }

    fn push(&mut self, byte: u8) {
        if self.length < self.room {
            // SAFETY: below `room`.
            unsafe { self.start.add(self.length).write(byte) };
            self.length += 1;
        }
    }

    fn push_all(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.push(byte);
        }
    }

    /// Stops early when full, so that a width of two billion costs nothing.
    fn fill(&mut self, byte: u8, count: usize) {
        for _ in 0..count.min(self.room - self.length.min(self.room)) {
            self.push(byte);
        }
    }
}

/// Length modifier.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Size {
    Char,
    Short,
    Int,
    Long,
}

/// One conversion specification, up to but without the conversion character.
#[derive(Clone, Copy)]
struct Spec {
    left: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
    size: Size,
}

/// Formats `format` with `arguments` into `sink`.
///
/// # Safety
/// `format` is a C string, `arguments` are those that it asks for, strings among them are
/// C strings (or long enough for their precision) or null.
pub(crate) unsafe fn format_into(sink: &mut Sink, format: *const u8, arguments: &mut VaList) {
    let mut cursor = Cursor { at: format };
    loop {
        match cursor.peek() {
            0 => return,
            b'%' => {
                let start = cursor.at;
                cursor.advance();
                // SAFETY: the caller's contract.
                unsafe { convert(sink, start, &mut cursor, arguments) };
            }
            byte => {
                sink.push(byte);
                cursor.advance();
            }
        }
    }
}

/// A place in a C string; never moves behind the terminating zero.
struct Cursor {
    at: *const u8,
}

impl Cursor {
    fn peek(&self) -> u8 {
        // SAFETY: `at` points into the string or at its terminating zero.
        unsafe { *self.at }
    }

    fn advance(&mut self) {
        if self.peek() != 0 {
            // SAFETY: not yet at the terminating zero.
            self.at = unsafe { self.at.add(1) };
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == byte;
        if found {
            self.advance();
        }
        found
    }

    fn number(&mut self) -> usize {
        let mut value: usize = 0;
        while let digit @ b'0'..=b'9' = self.peek() {
            value = value
                .saturating_mul(10)
                .saturating_add(usize::from(digit - b'0'));
            self.advance();
        }
        value
    }
}

/// Converts the specification whose `%` is at `start`, `cursor` being behind it.
///
/// # Safety
/// As for [`format_into`].
unsafe fn convert(sink: &mut Sink, start: *const u8, cursor: &mut Cursor, arguments: &mut VaList) {
    // SAFETY: the caller's contract.
    let mut spec = unsafe { parse_spec(cursor, arguments) };
    let conversion = cursor.peek();
    cursor.advance();
    // SAFETY: every branch takes the one argument that its conversion stands for.
    unsafe {
        match conversion {
            b'd' | b'i' => {
                let value = signed(arguments.next_word(), spec.size);
                let sign = match value {
                    i64::MIN..=-1 => &b"-"[..],
                    _ if spec.plus => b"+",
                    _ if spec.space => b" ",
                    _ => b"",
                };
                put_number(sink, &spec, sign, value.unsigned_abs(), 10, false);
            }
            b'u' => put_number(
                sink,
                &spec,
                b"",
                unsigned(arguments.next_word(), spec.size),
                10,
                false,
            ),
            b'o' => put_number(
                sink,
                &spec,
                b"",
                unsigned(arguments.next_word(), spec.size),
                8,
                false,
            ),
            b'x' | b'X' => {
                let upper = conversion == b'X';
                let value = unsigned(arguments.next_word(), spec.size);
                let prefix = match (spec.alternate && value != 0, upper) {
                    (false, _) => &b""[..],
                    (true, false) => b"0x",
                    (true, true) => b"0X",
                };
                put_number(sink, &spec, prefix, value, 16, upper);
            }
            b'c' => put_text(sink, &spec, &[arguments.next_word() as u8]),
            b's' => {
                let text = string(arguments.next_word() as *const u8, spec.precision);
                put_text(sink, &spec, text);
            }
            b'p' => {
                let value = arguments.next_word();
                put_pointer(sink, &mut spec, cursor, value);
            }
            b'%' => sink.push(b'%'),
            _ => {
                let length = cursor.at.offset_from(start).unsigned_abs();
                sink.push_all(core::slice::from_raw_parts(start, length));
            }
        }
    }
}

/// Reads flags, width, precision and length modifier.
///
/// # Safety
/// As for [`format_into`].
unsafe fn parse_spec(cursor: &mut Cursor, arguments: &mut VaList) -> Spec {
    let mut spec = Spec {
        left: false,
        plus: false,
        space: false,
        alternate: false,
        zero: false,
        width: 0,
        precision: None,
        size: Size::Int,
    };
    loop {
        match cursor.peek() {
            b'-' => spec.left = true,
            b'+' => spec.plus = true,
            b' ' => spec.space = true,
            b'#' => spec.alternate = true,
            b'0' => spec.zero = true,
            _ => break,
        }
        cursor.advance();
    }
    if cursor.take(b'*') {
        // SAFETY: `*` stands for an int argument.
        let width = unsafe { arguments.next_word() } as i32;
        spec.left |= width < 0;
        spec.width = width.unsigned_abs() as usize;
    } else {
        spec.width = cursor.number();
    }
    if cursor.take(b'.') {
        spec.precision = if cursor.take(b'*') {
            // SAFETY: `*` stands for an int argument.
            usize::try_from(unsafe { arguments.next_word() } as i32).ok()
        } else {
            Some(cursor.number())
        };
    }
    spec.size = parse_size(cursor);
    spec
}

fn parse_size(cursor: &mut Cursor) -> Size {
    match cursor.peek() {
        b'h' => {
            cursor.advance();
            if cursor.take(b'h') {
                Size::Char
            } else {
                Size::Short
            }
        }
        b'l' => {
            cursor.advance();
            cursor.take(b'l');
            Size::Long
        }
        b'z' | b'j' | b't' | b'L' | b'q' => {
            cursor.advance();
            Size::Long
        }
        _ => Size::Int,
    }
}

fn signed(word: u64, size: Size) -> i64 {
    match size {
        Size::Char => i64::from(word as i8),
        Size::Short => i64::from(word as i16),
        Size::Int => i64::from(word as i32),
        Size::Long => word as i64,
    }
}

fn unsigned(word: u64, size: Size) -> u64 {
    match size {
        Size::Char => u64::from(word as u8),
        Size::Short => u64::from(word as u16),
        Size::Int => u64::from(word as u32),
        Size::Long => word,
    }
}

/// Octal digits of 2^64 - 1.
const MAX_DIGITS: usize = 22;

fn put_number(sink: &mut Sink, spec: &Spec, prefix: &[u8], value: u64, base: u64, upper: bool) {
    let mut digits = [0_u8; MAX_DIGITS];
    let mut count = 0;
    let mut rest = value;
    for place in digits.iter_mut().rev() {
        if rest == 0 {
            break;
        }
        let digit = (rest % base) as u8;
        *place = match digit {
            0..=9 => b'0' + digit,
            _ if upper => b'A' + digit - 10,
            _ => b'a' + digit - 10,
        };
        rest /= base;
        count += 1;
    }
    let mut minimum = spec.precision.unwrap_or(1);
    if base == 8 && spec.alternate {
        minimum = minimum.max(count + 1);
    }
    let zeros = minimum.saturating_sub(count);
    let total = prefix.len().saturating_add(zeros).saturating_add(count);
    let padding = spec.width.saturating_sub(total);
    let pad_zero = spec.zero && !spec.left && spec.precision.is_none();
    if !spec.left && !pad_zero {
        sink.fill(b' ', padding);
    }
    sink.push_all(prefix);
    sink.fill(
        b'0',
        if pad_zero {
            padding.saturating_add(zeros)
        } else {
            zeros
        },
    );
    for &digit in digits.iter().skip(MAX_DIGITS - count) {
        sink.push(digit);
    }
    if spec.left {
        sink.fill(b' ', padding);
    }
}

fn put_text(sink: &mut Sink, spec: &Spec, text: &[u8]) {
    let padding = spec.width.saturating_sub(text.len());
    if !spec.left {
        sink.fill(b' ', padding);
    }
    sink.push_all(text);
    if spec.left {
        sink.fill(b' ', padding);
    }
}

/// The bytes of a C string, at most `limit`.
///
/// # Safety
/// `start` is null, or readable up to its terminating zero or `limit` bytes.
unsafe fn string<'a>(start: *const u8, limit: Option<usize>) -> &'a [u8] {
    if start.is_null() {
        return b"(null)";
    }
    let limit = limit.unwrap_or(usize::MAX);
    let mut length = 0;
    // SAFETY: stops at the limit or at the terminating zero.
    unsafe {
        while length < limit && *start.add(length) != 0 {
            length += 1;
        }
        core::slice::from_raw_parts(start, length)
    }
}

/// `%p` and its extensions: the letters behind it belong to the conversion.
fn put_pointer(sink: &mut Sink, spec: &mut Spec, cursor: &mut Cursor, value: u64) {
    let extension = cursor.peek();
    cursor.skip_extension();
    match extension {
        b'G' => put_gfp_flags(sink, value),
        b's' | b'S' | b'B' => {
            spec.precision = None;
            put_number(sink, spec, b"0x", value, 16, false);
        }
        _ => {
            if spec.width == 0 {
                spec.width = 2 * size_of::<u64>();
                spec.zero = true;
            }
            spec.precision = None;
            put_number(sink, spec, b"", value, 16, false);
        }
    }
}

impl Cursor {
    /// Skips the extension letters of a `%p`.
    fn skip_extension(&mut self) {
        while self.peek().is_ascii_alphanumeric() {
            self.advance();
        }
    }
}

/// Allocation flags with the values of `include/linux/slab.h`, the wider ones first.
const GFP_NAMES: [(u64, &[u8]); 6] = [
    (0xcc0, b"GFP_KERNEL"),
    (0x820, b"GFP_ATOMIC"),
    (0x800, b"GFP_NOWAIT"),
    (0x100, b"__GFP_ZERO"),
    (0x2000, b"__GFP_NOWARN"),
    (0x20, b"__GFP_HIGH"),
];

/// `%pGg`: the argument points to a `gfp_t`.
fn put_gfp_flags(sink: &mut Sink, address: u64) {
    let place = address as *const u32;
    if place.is_null() {
        sink.push_all(b"(null)");
        return;
    }
    // SAFETY: the caller of printk passes a pointer to flags with this conversion.
    let mut rest = u64::from(unsafe { place.read_unaligned() });
    let mut separator: &[u8] = b"";
    if rest == 0 {
        sink.push_all(b"none");
    }
    for (mask, name) in GFP_NAMES {
        if rest & mask == mask {
            sink.push_all(separator);
            sink.push_all(name);
            rest &= !mask;
            separator = b"|";
        }
    }
    if rest != 0 {
        sink.push_all(separator);
        sink.push_all(b"0x");
        let spec = Spec {
            left: false,
            plus: false,
            space: false,
            alternate: false,
            zero: false,
            width: 0,
            precision: None,
            size: Size::Long,
        };
        put_number(sink, &spec, b"", rest, 16, false);
    }
}

//! Messages: conversions, levels, and the ring that they end up in.

mod support;

use std::ffi::{CString, c_char, c_int};

use engraft_abi::RING_BYTES;
use support::random::{Random, seed};
use support::{Runtime, c, rust};

type Printk = unsafe extern "C" fn(*const c_char, ...) -> c_int;
type Scnprintf = unsafe extern "C" fn(*mut c_char, usize, *const c_char, ...) -> c_int;

fn printk(runtime: &Runtime) -> Printk {
    // SAFETY: the type is the one in linux/printk.h.
    unsafe { runtime.function("_printk") }
}

fn scnprintf(runtime: &Runtime) -> Scnprintf {
    // SAFETY: the type is the one in linux/kernel.h.
    unsafe { runtime.function("engraft_scnprintf") }
}

#[test]
fn printk_parses_levels_and_takes_the_newline_off() {
    let runtime = Runtime::load();
    let printk = printk(&runtime);
    let text = c("text");
    // SAFETY: the arguments fit the formats.
    unsafe {
        assert_eq!(printk(c"\x016%s: %d\n".as_ptr(), text.as_ptr(), -5), 8);
        assert_eq!(printk(c"none".as_ptr()), 4);
        assert_eq!(printk(c"\x013%s\n\n".as_ptr(), c"\x017inner".as_ptr()), 6);
        assert_eq!(printk(c"\x01c cont\n".as_ptr()), 5);
        assert_eq!(printk(c"\x019kept".as_ptr()), 6);
        assert_eq!(printk(c"%s".as_ptr(), std::ptr::null::<c_char>()), 6);
    }
    let expected = [
        (6, "text: -5"),
        (4, "none"),
        (7, "inner\n"),
        (4, " cont"),
        (4, "\x019kept"),
        (4, "(null)"),
    ];
    assert_eq!(
        runtime.log(),
        expected.map(|(level, text)| (level, text.to_owned()))
    );
}

#[test]
fn printk_takes_more_arguments_than_registers() {
    let runtime = Runtime::load();
    // SAFETY: the arguments fit the format.
    unsafe {
        printk(&runtime)(
            c"\x015%d %lu %c %x %s %hhd %lld %u %s".as_ptr(),
            1,
            u64::MAX,
            c_int::from(b'c'),
            0xabc,
            c"five".as_ptr(),
            300,
            i64::MIN,
            u32::MAX,
            c"nine".as_ptr(),
        );
    }
    let text = "1 18446744073709551615 c abc five 44 -9223372036854775808 4294967295 nine";
    assert_eq!(runtime.log(), [(5, text.to_owned())]);
}

#[test]
fn kernel_extensions_print_what_the_kernel_prints() {
    let runtime = Runtime::load();
    let format = |format: &std::ffi::CStr, value: u64| {
        let mut buffer = [0; 200];
        // SAFETY: one argument of word size for one conversion.
        unsafe {
            scnprintf(&runtime)(buffer.as_mut_ptr(), buffer.len(), format.as_ptr(), value);
            rust(buffer.as_ptr())
        }
    };
    let flags = |flags: u32| format(c"%pGg", &raw const flags as u64);
    assert_eq!(flags(0xcc0), "GFP_KERNEL");
    assert_eq!(flags(0xdc0), "GFP_KERNEL|__GFP_ZERO");
    assert_eq!(flags(0x820), "GFP_ATOMIC");
    assert_eq!(flags(0), "none");
    assert_eq!(flags(0x1), "0x1");
    assert_eq!(format(c"%p!", 0x1234), "0000000000001234!");
    assert_eq!(format(c"%px.", 0xdead_beef), "00000000deadbeef.");
    assert_eq!(format(c"%pS", 0x1234), "0x1234");
    assert_eq!(format(c"%ps\n", 0x1234), "0x1234\n");
    assert_eq!(format(c"%y", 7), "%y");
    assert_eq!(format(c"100%", 7), "100%");
    assert_eq!(format(c"%-+ 5.3lw|", 7), "%-+ 5.3lw|");
    assert_eq!(format(c"%% %d", 7), "% 7");
}

#[test]
fn long_messages_are_cut_and_a_monstrous_width_costs_nothing() {
    let runtime = Runtime::load();
    let long = "x".repeat(5000);
    // SAFETY: the arguments fit the formats.
    unsafe {
        printk(&runtime)(c"%s".as_ptr(), c(&long).as_ptr());
        printk(&runtime)(c"%2147483647d".as_ptr(), 1);
        printk(&runtime)(c"%.99999999999999999999d".as_ptr(), 1);
        printk(&runtime)(c"%*d".as_ptr(), c_int::MIN, 1);
    }
    let log = runtime.log();
    assert_eq!(log[0].1, "x".repeat(1024));
    assert_eq!(log[1].1, " ".repeat(1024));
    assert_eq!(log[2].1, "0".repeat(1024));
    assert_eq!(log[3].1, format!("1{}", " ".repeat(1023)));
}

#[test]
fn scnprintf_reports_what_was_written() {
    let runtime = Runtime::load();
    let mut buffer = [0x55 as c_char; 8];
    let call = scnprintf(&runtime);
    // SAFETY: the sizes are those of the buffer or less.
    unsafe {
        assert_eq!(call(buffer.as_mut_ptr(), 0, c"abc".as_ptr()), 0);
        assert_eq!(buffer, [0x55; 8]);
        assert_eq!(call(buffer.as_mut_ptr(), 1, c"abc".as_ptr()), 0);
        assert_eq!(buffer[..2], [0, 0x55]);
        assert_eq!(call(buffer.as_mut_ptr(), 4, c"%d".as_ptr(), 12345), 3);
        assert_eq!(rust(buffer.as_ptr()), "123");
        assert_eq!(buffer[4..], [0x55; 4]);
    }
}

#[test]
fn conversions_agree_with_libc() {
    let runtime = Runtime::load();
    let seed = seed();
    let mut random = Random::new(seed);
    let strings: Vec<CString> = ["", "a", "some text", &"long ".repeat(20)].map(c).into();
    for case in 0..50_000 {
        let mut format = String::new();
        let mut words = [0_u64; 9];
        let mut used = 0;
        for _ in 0..=random.below(2) {
            push_conversion(&mut random, &strings, &mut format, &mut words, &mut used);
        }
        let size = random.pick(&[0_usize, 1, 5, 40, 500, 500, 500]);
        let [a, b, d, e, f, g, h, i, j] = words;
        let (mut ours, mut theirs) = ([0x7f as c_char; 500], [0x7f as c_char; 500]);
        let text = c(&format);
        // SAFETY: every conversion finds its word; sizes are at most the buffers'.
        let (written, _) = unsafe {
            (
                scnprintf(&runtime)(
                    ours.as_mut_ptr(),
                    size,
                    text.as_ptr(),
                    a,
                    b,
                    d,
                    e,
                    f,
                    g,
                    h,
                    i,
                    j,
                ),
                libc::snprintf(
                    theirs.as_mut_ptr(),
                    size,
                    text.as_ptr(),
                    a,
                    b,
                    d,
                    e,
                    f,
                    g,
                    h,
                    i,
                    j,
                ),
            )
        };
        let length = ours.iter().position(|&byte| byte == 0).unwrap_or(0);
        assert_eq!(
            ours, theirs,
            "seed {seed}, case {case}: {format:?} of {words:x?}"
        );
        assert_eq!(
            written as usize, length,
            "seed {seed}, case {case}: {format:?}"
        );
    }
}

fn push_conversion(
    random: &mut Random,
    strings: &[CString],
    format: &mut String,
    words: &mut [u64],
    used: &mut usize,
) {
    let mut push_word = |value: u64| {
        words[*used] = value;
        *used += 1;
    };
    let conversion = random.pick(&['d', 'i', 'u', 'o', 'x', 'X', 'c', 's']);
    let is_number = !matches!(conversion, 'c' | 's');
    format.push_str(random.pick(&["", "<", "%%", "text "]));
    format.push('%');
    for flag in ['-', '+', ' ', '#', '0'] {
        let defined = match flag {
            '-' => true,
            '#' => matches!(conversion, 'o' | 'x' | 'X'),
            '+' | ' ' => matches!(conversion, 'd' | 'i'),
            _ => is_number,
        };
        if defined && random.below(3) == 0 {
            format.push(flag);
        }
    }
    match random.below(4) {
        0 => format.push_str(&random.below(45).to_string()),
        1 => {
            format.push('*');
            push_word(random.below(90).wrapping_sub(45) & 0xffff_ffff);
        }
        _ => {}
    }
    if conversion != 'c' {
        match random.below(5) {
            0 => format.push_str(&format!(".{}", random.below(45))),
            1 => {
                format.push_str(".*");
                push_word(random.below(50).wrapping_sub(5) & 0xffff_ffff);
            }
            2 if random.below(3) == 0 => format.push('.'),
            _ => {}
        }
    }
    if is_number {
        format.push_str(random.pick(&["", "", "hh", "h", "l", "ll", "z", "j", "t"]));
    }
    format.push(conversion);
    push_word(match conversion {
        'c' => 1 + random.below(126),
        's' => strings[random.below(strings.len() as u64) as usize].as_ptr() as u64,
        _ => match random.below(6) {
            0 => 0,
            1 => random.below(200).wrapping_sub(100),
            2 => random.pick(&[i64::MIN as u64, u64::MAX, i32::MIN as u32 as u64, 1 << 31]),
            3 => random.next() >> random.below(64),
            _ => random.next(),
        },
    });
}

#[test]
fn records_go_on_at_the_start_when_the_ring_ends() {
    let runtime = Runtime::load();
    let mut position = 0;
    for round in 0..30_000 {
        // SAFETY: the arguments fit the format.
        unsafe { printk(&runtime)(c"\x016record %d of many".as_ptr(), round) };
        let (records, next) = runtime.read_log(position);
        assert_eq!(records, [(6, format!("record {round} of many"))]);
        position = next;
    }
    assert!(position > 4 * RING_BYTES as u64);
}

#[test]
fn threads_write_whole_records() {
    let runtime = Runtime::load();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let runtime = &runtime;
            scope.spawn(move || {
                for number in 0..300 {
                    // SAFETY: the arguments fit the format.
                    unsafe { printk(runtime)(c"\x016%d:%d:end".as_ptr(), thread, number) };
                }
            });
        }
    });
    let mut next = [0; 8];
    let log = runtime.log();
    assert_eq!(log.len(), 8 * 300);
    for (_, text) in log {
        let parts: Vec<&str> = text.split(':').collect();
        let (thread, number): (usize, u32) = (parts[0].parse().unwrap(), parts[1].parse().unwrap());
        assert_eq!((number, parts[2]), (next[thread], "end"));
        next[thread] += 1;
    }
}

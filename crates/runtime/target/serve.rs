//! One command after another, until the tool says return or is gone.
//!
//! Only one thread at a time serves: the tool hands out the frame, and with it the mailbox.
//! Everything in the mailbox is read and written volatile, because the other side is
//! another process.

use core::ptr::{addr_of_mut, read_volatile, write_volatile};
use core::sync::atomic::{AtomicU64, Ordering};

use engraft_abi::{
    Command, CommandKind, KlpPatch, Mailbox, RESULT_SLOTS, ResultSlot, TRAP_MAGIC, UpcallKind,
};

use crate::arrival::Turn;
use crate::log;
use crate::syscall::{self, syscall6};

/// Both directions of the conversation with the tool.
#[unsafe(no_mangle)]
pub(crate) static mut engraft_mailbox: Mailbox = Mailbox {
    upcall: 0,
    depth: 0,
    argument: 0,
    unanswered: 0,
    command: NO_COMMAND,
    results: [ResultSlot {
        sequence: 0,
        value: 0,
    }; RESULT_SLOTS],
};

const NO_COMMAND: Command = Command {
    kind: 0,
    reserved: 0,
    sequence: 0,
    target: 0,
    arguments: [0; 6],
};

/// The thread that serves now, 0 for none: only module code called from there may make an
/// upcall. Its own idea of its number, since the tool may see it from another PID namespace.
static SERVING_THREAD: AtomicU64 = AtomicU64::new(0);

/// Serves the outermost level; called by `engraft_enter`.
pub(crate) extern "C" fn engraft_serve() {
    SERVING_THREAD.store(syscall::gettid(), Ordering::Relaxed);
    // A session that its thread did not survive may have left a depth behind.
    write_depth(0);
    serve_level(UpcallKind::Ready, 0);
    SERVING_THREAD.store(0, Ordering::Relaxed);
}

/// Serves commands until `Return`, whose value this gives, or until there is no tool: None.
fn serve_level(upcall: UpcallKind, argument: u64) -> Option<u64> {
    let depth = read_depth().wrapping_add(1);
    write_depth(depth);
    let mut question = upcall;
    let answer = loop {
        let command = ask_command(question, argument);
        let value = match CommandKind::from_raw(command.kind) {
            Some(CommandKind::Call) => call(&command),
            Some(CommandKind::CallWhile) => {
                let turn = Turn::take();
                keep_result(command.sequence, call_while(&command));
                drop(turn);
                question = UpcallKind::Ready;
                continue;
            }
            // SAFETY: the tool vouches for the call it asks for.
            Some(CommandKind::Syscall) => unsafe { syscall6(command.target, command.arguments) },
            Some(CommandKind::Log) => append_line(&command),
            Some(CommandKind::Return) => {
                keep_result(command.sequence, command.arguments[0]);
                break Some(command.arguments[0]);
            }
            Some(CommandKind::None) | None => break None,
        };
        keep_result(command.sequence, value);
        question = UpcallKind::Ready;
    };
    write_depth(depth.wrapping_sub(1));
    write_upcall(UpcallKind::None, 0);
    answer
}

/// Says what is wanted, lets the tool act at a system call that fails harmlessly, and takes
/// the command that is there afterwards.
fn ask_command(upcall: UpcallKind, argument: u64) -> Command {
    write_upcall(upcall, argument);
    // SAFETY: descriptor -1 makes the call fail with EBADF before anything is touched.
    unsafe { syscall6(syscall::READ, [u64::MAX, TRAP_MAGIC, 0, 0, 0, 0]) };
    // SAFETY: the static is valid; the tool writes it only while this thread is stopped.
    unsafe {
        let place = addr_of_mut!(engraft_mailbox.command);
        let command = read_volatile(place);
        write_volatile(&raw mut (*place).kind, CommandKind::None as u32);
        command
    }
}

fn call(command: &Command) -> u64 {
    type Function = extern "C" fn(u64, u64, u64, u64, u64, u64) -> u64;
    if command.target == 0 {
        return syscall::EINVAL as u64;
    }
    // SAFETY: the tool names a function of a module that it has linked into this process.
    let function: Function = unsafe { core::mem::transmute(command.target) };
    let [a, b, c, d, e, f] = command.arguments;
    function(a, b, c, d, e, f)
}

/// The result is kept while the turn is: who has it next must know what was done.
fn call_while(command: &Command) -> u64 {
    let [argument, .., place, expected] = command.arguments;
    // SAFETY: the tool names a word that stays where it is.
    if unsafe { read_volatile(place as *const u64) } != expected {
        return 0;
    }
    call(&Command {
        arguments: [argument, 0, 0, 0, 0, 0],
        ..*command
    })
}

fn append_line(command: &Command) -> u64 {
    let [address, length, ..] = command.arguments;
    // SAFETY: the tool has put `length` bytes of text at `address`.
    let text = unsafe { core::slice::from_raw_parts(address as *const u8, length as usize) };
    log::append(command.target as u32, text);
    0
}

/// A tool that finds the number in a slot must find the value with it, so the slot is empty
/// while the value changes.
fn keep_result(sequence: u64, value: u64) {
    // SAFETY: the index is below the array's length; only the serving thread writes results.
    unsafe {
        let results = addr_of_mut!(engraft_mailbox.results).cast::<ResultSlot>();
        let slot = results.add((sequence % RESULT_SLOTS as u64) as usize);
        write_volatile(&raw mut (*slot).sequence, 0);
        write_volatile(&raw mut (*slot).value, value);
        write_volatile(&raw mut (*slot).sequence, sequence);
    }
}

fn write_upcall(upcall: UpcallKind, argument: u64) {
    // SAFETY: only the serving thread writes these fields.
    unsafe {
        write_volatile(addr_of_mut!(engraft_mailbox.argument), argument);
        write_volatile(addr_of_mut!(engraft_mailbox.upcall), upcall as u32);
    }
}

fn read_depth() -> u32 {
    // SAFETY: only the serving thread writes the field.
    unsafe { read_volatile(addr_of_mut!(engraft_mailbox.depth)) }
}

fn write_depth(depth: u32) {
    // SAFETY: only the serving thread writes the field.
    unsafe { write_volatile(addr_of_mut!(engraft_mailbox.depth), depth) }
}

/// `int klp_enable_patch(struct klp_patch *)`: asks the tool, which reads the patch and
/// checks it.
///
/// -EPERM on a thread that the tool has not lent to the module, where nobody could answer.
/// When the tool is gone: -EINTR, or 0 if it has begun what can only be finished.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn klp_enable_patch(patch: *const KlpPatch) -> i32 {
    if SERVING_THREAD.load(Ordering::Relaxed) != syscall::gettid() {
        return syscall::EPERM as i32;
    }
    // SAFETY: only the serving thread writes the field, the tool while this thread is stopped.
    unsafe {
        write_volatile(
            addr_of_mut!(engraft_mailbox.unanswered),
            syscall::EINTR as u64,
        )
    };
    let answer = serve_level(UpcallKind::EnablePatch, patch as u64);
    // SAFETY: as above.
    let unanswered = || unsafe { read_volatile(addr_of_mut!(engraft_mailbox.unanswered)) };
    answer.unwrap_or_else(unanswered) as i32
}

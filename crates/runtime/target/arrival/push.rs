//! Pushing the functions of one object: redirects over code that nobody runs yet.

use engraft_abi::{FunctionStatus, MAX_DISPLACED, PlanFunction, Redirect};

use super::memory::{READ_WRITE, protect};
use super::plan::{Part, PlanInForce};
use super::prologue::{JUMP, ROOM, Unfit, displace, plan};
use super::redirects::{Record, Redirects, SELECTOR};
use super::symbols::Symbols;

const EINVAL: i32 = 22;
const EBUSY: i32 = 16;
const ENOMEM: i32 = 12;

/// Filler behind a function that may be displaced with it.
const MAX_PADDING: u64 = 64;

/// Brings the functions of a patch on top of what older patches have pushed.
pub(super) struct Pusher<'a> {
    pub(super) plan: PlanInForce,
    pub(super) symbols: &'a Symbols,
    pub(super) redirects: &'a Redirects,
}

/// What stands in the way: a function and a positive errno.
pub(super) struct Obstacle {
    pub(super) function: &'static PlanFunction,
    pub(super) errno: i32,
}

impl Pusher<'_> {
    /// Pushes all functions, which have been found.
    pub(super) fn push(&self, part: Part) -> Result<(), Obstacle> {
        let fail = |function| move |errno| Obstacle { function, errno };
        for (index, function) in part.functions().enumerate() {
            let at = read_status(function).address;
            let mut before = part.functions().take(index);
            // A nop for a function that the patch has under another name is none.
            let doubled = before.any(|other| read_status(other).address == at);
            if function.replacement == 0 && doubled {
                continue;
            }
            self.push_one(part, function).map_err(fail(function))?;
        }
        Ok(())
    }

    fn push_one(&self, part: Part, function: &PlanFunction) -> Result<(), i32> {
        let mut status = read_status(function);
        let known = self
            .redirects
            .records()
            .enumerate()
            .find(|(_, record)| record.redirect.function == status.address);
        let index = match known {
            Some((index, _)) => index as u64,
            // Nobody is to run anything but the original.
            None if function.replacement == 0 => return Ok(()),
            None => {
                self.redirects.open()?;
                let added = self.add_redirect(&status);
                self.redirects.close()?;
                added?
            }
        };
        self.redirects.open()?;
        let lead = self.lead(part, function, index);
        self.redirects.close()?;
        let redirect = lead?;
        // SAFETY: the jump belongs there; nobody runs the library's code yet.
        unsafe { write_jump(self.symbols, &redirect.redirect) }?;
        status.redirect = core::ptr::from_ref(redirect) as u64;
        write_status(function, status);
        Ok(())
    }

    fn add_redirect(&self, status: &FunctionStatus) -> Result<u64, i32> {
        let code = self.code_of(status).ok_or(EINVAL)?;
        let planned = plan(code, status.size as usize).map_err(errno_of)?;
        let mut redirect = Redirect {
            function: status.address,
            site: status.address + planned.site as u64,
            original_length: planned.original as u64,
            ..Redirect::default()
        };
        if planned.original > MAX_DISPLACED {
            return Err(EINVAL);
        }
        let displaced = code.iter().skip(planned.site).take(planned.original);
        for (place, byte) in redirect.original.iter_mut().zip(displaced) {
            *place = *byte;
        }
        let record = Record { redirect, copy: 0 };
        self.redirects.add(record).ok_or(ENOMEM)
    }

    /// Lets the slot lead to the patch's function: for everybody, or for those threads that are
    /// in its universe.
    fn lead(&self, part: Part, function: &PlanFunction, index: u64) -> Result<&Record, i32> {
        let record = |index: u64| self.redirects.records().nth(index as usize).ok_or(EINVAL);
        let slot = record(index)?.redirect.slot as *mut u64;
        // SAFETY: the slot is the redirect's; it is 0 as long as nothing was pushed.
        let below = unsafe { slot.read_volatile() };
        let new = match function.replacement {
            0 => self.original(index)?,
            replacement => replacement,
        };
        let value = if part.is_in_transition() {
            let below = match below {
                0 => self.original(index)?,
                below => below,
            };
            let (unswitched, switched) = match self.plan.is_patching() {
                true => (below, new),
                false => (new, below),
            };
            let place = self.redirects.selector(index);
            write_selector(place, self.plan.token(), unswitched, switched);
            place
        } else {
            new
        };
        // SAFETY: the memory is open.
        unsafe { slot.write_volatile(value) };
        record(index)
    }

    /// The original function, as it is called while its entry is redirected.
    fn original(&self, index: u64) -> Result<u64, i32> {
        let record = self.redirects.records().nth(index as usize).ok_or(EINVAL)?;
        if record.copy != 0 {
            return Ok(record.copy);
        }
        let place = self.redirects.copy(index);
        let redirect = &record.redirect;
        let displaced = redirect.original.get(..redirect.original_length as usize);
        let displaced = displaced.ok_or(EINVAL)?;
        // SAFETY: the copy's place is open and has ROOM bytes.
        let room = unsafe { &mut *(place as *mut [u8; ROOM]) };
        // The displaced instructions are given as a function that begins at the site: what leads
        // into them was looked at when the redirect was planned.
        displace(redirect.site, displaced, displaced.len(), place, room).map_err(errno_of)?;
        self.redirects.set_copy(index, place);
        Ok(place)
    }

    /// The function's code, with the filler behind it.
    fn code_of(&self, status: &FunctionStatus) -> Option<&[u8]> {
        let end = status.address.checked_add(status.size)?;
        let next = self.symbols.next_after(end.wrapping_sub(1)).max(end);
        let length = status.size + (next - end).min(MAX_PADDING);
        self.symbols.bytes(status.address, length)
    }
}

fn errno_of(unfit: Unfit) -> i32 {
    match unfit {
        Unfit::Breakpoint => EBUSY,
        _ => EINVAL,
    }
}

pub(super) fn read_status(function: &PlanFunction) -> FunctionStatus {
    // SAFETY: the plan names a status, which the thread that has the turn may use.
    unsafe { (function.status as *const FunctionStatus).read_volatile() }
}

pub(super) fn write_status(function: &PlanFunction, status: FunctionStatus) {
    // SAFETY: as above.
    unsafe { (function.status as *mut FunctionStatus).write_volatile(status) };
}

/// The same bytes as `encode_selector` of the crate `arch` gives: a selector changes no register
/// and no flag.
fn write_selector(place: u64, token: u64, unswitched: u64, switched: u64) {
    const LITERALS: usize = 32;
    let mut code: [u8; SELECTOR] = [0xcc; SELECTOR];
    let negated = (token as u32).wrapping_neg().to_le_bytes();
    let [t0, t1, t2, t3] = negated;
    let instructions = [
        0x51, // push %rcx
        0xf3, 0x48, 0x0f, 0xae, 0xc9, // rdgsbase %rcx
        0x48, 0x8d, 0x89, t0, t1, t2, t3, // lea -token(%rcx), %rcx
        0xe3, 0x07, // jrcxz, over the next two
        0x59, // pop %rcx
        0xff, 0x25, 10, 0, 0, 0,    // jmp *unswitched(%rip)
        0x59, // pop %rcx
        0xff, 0x25, 11, 0, 0, 0, // jmp *switched(%rip)
    ];
    let literals = unswitched
        .to_le_bytes()
        .into_iter()
        .chain(switched.to_le_bytes());
    code.iter_mut()
        .zip(instructions)
        .for_each(|(place, byte)| *place = byte);
    let places = code.iter_mut().skip(LITERALS);
    places.zip(literals).for_each(|(place, byte)| *place = byte);
    // SAFETY: the memory is open and has SELECTOR bytes there.
    unsafe { (place as *mut [u8; SELECTOR]).write(code) };
}

/// Writes the bytes that are to be at a redirect's site.
///
/// # Safety
/// No thread runs the bytes.
unsafe fn write_site(symbols: &Symbols, redirect: &Redirect, bytes: [u8; JUMP]) -> Result<(), i32> {
    let site = redirect.site;
    let protection = symbols.protection(site).ok_or(EINVAL)?;
    // SAFETY: the caller's contract; writing to private memory of a file copies it.
    unsafe {
        protect(site, JUMP as u64, READ_WRITE)?;
        (site as *mut [u8; JUMP]).write_volatile(bytes);
        protect(site, JUMP as u64, protection)
    }
}

/// # Safety
/// As for [`write_site`].
unsafe fn write_jump(symbols: &Symbols, redirect: &Redirect) -> Result<(), i32> {
    let distance = redirect.router.wrapping_sub(redirect.site + JUMP as u64) as u32;
    let [a, b, c, d] = distance.to_le_bytes();
    // SAFETY: the caller's contract.
    unsafe { write_site(symbols, redirect, [0xe9, a, b, c, d]) }
}

/// Puts the original bytes back.
///
/// # Safety
/// As for [`write_site`].
pub(super) unsafe fn restore(symbols: &Symbols, redirect: &Redirect) -> Result<(), i32> {
    let mut bytes = [0; JUMP];
    let originals = redirect.original.iter();
    bytes
        .iter_mut()
        .zip(originals)
        .for_each(|(place, byte)| *place = *byte);
    // SAFETY: the caller's contract.
    unsafe { write_site(symbols, redirect, bytes) }
}

//! The code that lives inside a target, as one relocatable object.
//!
//! This side only hands out the object and the names in it. It must not know how the object
//! is linked into an address space, who calls it, or what the livepatch rules are; the code
//! in `target/` must not know libc, thread-local storage or anything else of the target.
#![forbid(unsafe_code)]

/// The runtime: a relocatable ELF object for x86-64 with no undefined symbols, to be linked
/// into a target as read-execute, read-only and read-write parts within 2 GiB of each other.
pub static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/runtime.o"));

/// Where a borrowed thread is made to start, with its stack pointer at the (16-byte aligned)
/// top of the service stack and `SYM_FRAME` filled in.
pub const SYM_ENTER: &str = "engraft_enter";

/// First byte of the code that gives a frame back, beginning with a trap: a thread whose
/// instruction pointer lies between this and [`SYM_LEAVE_END`] still needs the frame, though
/// `entered` or `owner` may be 0 already.
pub const SYM_LEAVE: &str = "engraft_leave";

/// One past the last byte of the code that gives a frame back.
pub const SYM_LEAVE_END: &str = "engraft_leave_end";

/// The `RuntimeConfig`, in read-only data; the tool fills it in before the first entry.
pub const SYM_CONFIG: &str = "engraft_config";

/// The `Mailbox`.
pub const SYM_MAILBOX: &str = "engraft_mailbox";

/// The `CallFrame`.
pub const SYM_FRAME: &str = "engraft_frame";

/// Where the dynamic linker's notification is to lead.
pub const SYM_ARRIVAL: &str = "engraft_arrival";

/// The `Arrivals`.
pub const SYM_ARRIVALS: &str = "engraft_arrivals";

/// `void engraft_watch(LibraryStatus *, const char *name)`: from here on a library is followed.
pub const SYM_WATCH: &str = "engraft_watch";

/// Every symbol of the runtime that a patch module may be linked against. Names that are not
/// the kernel's own carry the prefix `engraft_`, so that none of them can hide a symbol of
/// the target; the headers in `include/linux` map the kernel's names to them.
pub const EXPORTS: &[&str] = &[
    "klp_enable_patch",
    "klp_get_state",
    "klp_get_prev_state",
    "klp_shadow_get",
    "klp_shadow_alloc",
    "klp_shadow_get_or_alloc",
    "klp_shadow_free",
    "klp_shadow_free_all",
    "_printk",
    "printk",
    "vprintk",
    "engraft_scnprintf",
    "engraft_vscnprintf",
    "engraft_kmalloc",
    "engraft_kzalloc",
    "engraft_kmalloc_array",
    "engraft_kcalloc",
    "engraft_krealloc",
    "engraft_kfree",
    "engraft_ksize",
    "engraft_kstrdup",
    "engraft_kstrndup",
    "engraft_kmemdup",
    "engraft_strscpy",
    "engraft_read_task",
    "engraft_schedule",
    "engraft_msleep",
    "engraft_usleep_range",
    "engraft_mutex_lock",
    "engraft_mutex_trylock",
    "engraft_mutex_unlock",
];

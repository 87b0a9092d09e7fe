//! Shadow variables: data attached to objects of the target without changing their layout.

use core::ffi::c_void;

use crate::heap;
use crate::lock::SpinLock;
use crate::log;
use crate::shadow_table;

/// `klp_shadow_ctor_t`: (object, data, constructor's data), not 0 for failure.
type Constructor = unsafe extern "C" fn(*mut c_void, *mut c_void, *mut c_void) -> i32;

/// `klp_shadow_dtor_t`: (object, data).
type Destructor = unsafe extern "C" fn(*mut c_void, *mut c_void);

/// Held by whoever changes the table, and while constructors and destructors run.
static LOCK: SpinLock = SpinLock::new();

/// `void *klp_shadow_get(void *obj, unsigned long id)`: the variable's data, or NULL. Takes
/// no lock. How long the data lives is the callers' business.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn klp_shadow_get(object: *mut c_void, id: u64) -> *mut c_void {
    shadow_table::find(object as u64, id) as *mut c_void
}

/// `klp_shadow_alloc()`: a new zeroed variable of `size` bytes; NULL when there is one
/// already, when the constructor fails or when there is no memory.
///
/// # Safety
/// `constructor` may be called with these arguments; it must not use the shadow variable
/// functions except `klp_shadow_get()`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn klp_shadow_alloc(
    object: *mut c_void,
    id: u64,
    size: usize,
    _gfp_flags: u32,
    constructor: Option<Constructor>,
    constructor_data: *mut c_void,
) -> *mut c_void {
    // SAFETY: the same contract.
    match unsafe { get_or_alloc(object, id, size, constructor, constructor_data) } {
        Found::New(data) => data,
        Found::Old(_) => {
            log::print(
                4,
                c"livepatch: Duplicate shadow variable <%p, %lx>",
                &[object as u64, id],
            );
            core::ptr::null_mut()
        }
        Found::Failed => core::ptr::null_mut(),
    }
}

/// `klp_shadow_get_or_alloc()`: the variable that is there, or else as
/// [`klp_shadow_alloc`].
///
/// # Safety
/// As for [`klp_shadow_alloc`].
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn klp_shadow_get_or_alloc(
    object: *mut c_void,
    id: u64,
    size: usize,
    _gfp_flags: u32,
    constructor: Option<Constructor>,
    constructor_data: *mut c_void,
) -> *mut c_void {
    // SAFETY: the same contract.
    match unsafe { get_or_alloc(object, id, size, constructor, constructor_data) } {
        Found::New(data) | Found::Old(data) => data,
        Found::Failed => core::ptr::null_mut(),
    }
}

/// `klp_shadow_free()`: takes the variable out, calls the destructor, frees the data; does
/// nothing when there is none.
///
/// # Safety
/// `destructor` may be called with the object and the data, under the same restriction as
/// the constructor; nobody uses the data any more.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn klp_shadow_free(
    object: *mut c_void,
    id: u64,
    destructor: Option<Destructor>,
) {
    let guard = LOCK.lock();
    let data = shadow_table::remove(object as u64, id);
    if data != 0 {
        // SAFETY: the same contract; the data was this variable's.
        unsafe { dispose(object as u64, data, destructor) };
        shadow_table::shrink();
    }
    drop(guard);
}

/// `klp_shadow_free_all()`: [`klp_shadow_free`] for every object that has this id.
///
/// # Safety
/// As for [`klp_shadow_free`].
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn klp_shadow_free_all(id: u64, destructor: Option<Destructor>) {
    let guard = LOCK.lock();
    shadow_table::remove_all(id, |object, data| {
        // SAFETY: the same contract; the data was a variable's with this id.
        unsafe { dispose(object, data, destructor) };
    });
    shadow_table::shrink();
    drop(guard);
}

enum Found {
    Old(*mut c_void),
    New(*mut c_void),
    Failed,
}

/// # Safety
/// As for [`klp_shadow_alloc`].
unsafe fn get_or_alloc(
    object: *mut c_void,
    id: u64,
    size: usize,
    constructor: Option<Constructor>,
    constructor_data: *mut c_void,
) -> Found {
    let old = klp_shadow_get(object, id);
    if !old.is_null() {
        return Found::Old(old);
    }
    let data = heap::allocate_zeroed(size).cast::<c_void>();
    if data.is_null() {
        return Found::Failed;
    }
    let guard = LOCK.lock();
    let faster = klp_shadow_get(object, id);
    let (found, error) = if !faster.is_null() {
        (Found::Old(faster), 0)
    } else if !shadow_table::reserve() {
        (Found::Failed, 0)
    } else {
        // SAFETY: the caller's contract.
        let error = constructor.map_or(0, |constructor| unsafe {
            constructor(object, data, constructor_data)
        });
        if error == 0 {
            shadow_table::insert(object as u64, id, data as u64);
            return Found::New(data);
        }
        (Found::Failed, error)
    };
    drop(guard);
    // SAFETY: the block was never published.
    unsafe { heap::release(data.cast()) };
    if error != 0 {
        log::print(
            3,
            c"livepatch: Failed to construct shadow variable <%p, %lx> (%d)",
            &[object as u64, id, error as u64],
        );
    }
    found
}

/// # Safety
/// As for [`klp_shadow_free`]; `data` is out of the table.
unsafe fn dispose(object: u64, data: u64, destructor: Option<Destructor>) {
    if let Some(destructor) = destructor {
        // SAFETY: the caller's contract.
        unsafe { destructor(object as *mut c_void, data as *mut c_void) };
    }
    // SAFETY: the block came from the heap and nobody can find it any more.
    unsafe { heap::release(data as *mut u8) };
}

//! Local time, for display only.

use std::mem::MaybeUninit;

/// Converts seconds since 1970 to local time; `None` if the year does not fit. localtime_r(3).
pub(crate) fn local_time(seconds: i64) -> Option<libc::tm> {
    let seconds = libc::time_t::try_from(seconds).ok()?;
    let mut time = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are valid. Zeroed plain data is a valid `tm`.
    unsafe {
        let result = libc::localtime_r(&raw const seconds, time.as_mut_ptr());
        (!result.is_null()).then(|| time.assume_init())
    }
}

//! The wall clock as people read it, in their time zone. For display only.

use std::mem::MaybeUninit;
use std::time::{SystemTime, UNIX_EPOCH};

/// A point of the wall clock, in local time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LocalTime {
    pub year: i32,
    pub month: i32,
    pub day: i32,
    pub hour: i32,
    pub minute: i32,
    /// From 0; 60 in a leap second.
    pub second: i32,
}

impl LocalTime {
    /// Local time of a point of the clock; `None` for years beyond all reason. localtime_r(3).
    pub(crate) fn of(time: SystemTime) -> Option<LocalTime> {
        let seconds = match time.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_secs()).ok()?,
            Err(before) => -i64::try_from(before.duration().as_secs()).ok()?,
        };
        let seconds = libc::time_t::try_from(seconds).ok()?;
        let mut out = MaybeUninit::<libc::tm>::zeroed();
        // SAFETY: both point to live objects of the types that the call takes.
        let done = unsafe { libc::localtime_r(&raw const seconds, out.as_mut_ptr()) };
        if done.is_null() {
            return None;
        }
        // SAFETY: zeroed plain old data is a valid value, and the call has written it.
        let out = unsafe { out.assume_init() };
        Some(LocalTime {
            year: out.tm_year + 1900,
            month: out.tm_mon + 1,
            day: out.tm_mday,
            hour: out.tm_hour,
            minute: out.tm_min,
            second: out.tm_sec,
        })
    }
}

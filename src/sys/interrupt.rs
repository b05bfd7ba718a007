//! Interrupting the system calls of a thread: timer_create(2).

use std::io;
use std::mem::{self, MaybeUninit};
use std::ptr;

use super::check;

/// Nothing else in this process uses it.
const SIGNAL: libc::c_int = libc::SIGURG;
const EVERY: libc::timespec = libc::timespec {
    tv_sec: 0,
    tv_nsec: 1_000_000,
};

/// Calls a function and interrupts its system calls by a signal every millisecond, unless the kernel has no timer left.
pub(crate) fn interrupting<T>(function: impl FnOnce() -> T) -> T {
    let timer = start_timer();
    let value = function();
    if let Ok(timer) = timer {
        // SAFETY: the timer exists, and nothing uses it afterwards.
        unsafe { libc::timer_delete(timer) };
    }
    value
}

/// Starts a timer that sends [`SIGNAL`] to this thread.
fn start_timer() -> io::Result<libc::timer_t> {
    extern "C" fn ignore(_: libc::c_int) {}
    let mut timer = MaybeUninit::uninit();
    // SAFETY: all zeroes is a valid value of these structs, and each pointer is null or to a live one. The handler does
    // nothing, and without SA_RESTART it interrupts. The timer is read only after it was written.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = ignore as extern "C" fn(libc::c_int) as libc::sighandler_t;
        check(libc::sigaction(SIGNAL, &raw const action, ptr::null_mut()))?;
        let mut set = mem::zeroed();
        libc::sigaddset(&raw mut set, SIGNAL);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut());
        let mut event: libc::sigevent = mem::zeroed();
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = SIGNAL;
        event.sigev_notify_thread_id = libc::gettid();
        check(libc::timer_create(
            libc::CLOCK_MONOTONIC,
            &raw mut event,
            timer.as_mut_ptr(),
        ))?;
        let times = libc::itimerspec {
            it_interval: EVERY,
            it_value: EVERY,
        };
        let timer = timer.assume_init();
        libc::timer_settime(timer, 0, &raw const times, ptr::null_mut()); // cannot fail
        Ok(timer)
    }
}

//! The thread that waits for changes of the mounts, in this namespace and in the host's: the
//! kernel tells of them only to poll(2).

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::thread;

use super::timeouts::MOUNTS_GATHER;
use crate::sys::mount::has_changed;

/// Starts the thread; it lives as long as the daemon.
///
/// # Errors
/// This namespace's mounts cannot be read, or no thread can be had.
pub(super) fn start(changed: impl Fn() -> bool + Send + 'static) -> io::Result<()> {
    let own = File::open("/proc/self/mountinfo")?;
    let host = File::open("/proc/1/mountinfo").ok();
    thread::Builder::new()
        .name("watcher".into())
        .spawn(move || {
            let mut files = vec![own.as_fd()];
            files.extend(host.as_ref().map(AsFd::as_fd));
            loop {
                match has_changed(&files, None) {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(error) => {
                        log::error!("cannot wait for changes of the mounts: {error}");
                        return;
                    }
                }
                if !changed() {
                    return;
                }
                // The kernel remembers what changes meanwhile.
                thread::sleep(MOUNTS_GATHER);
            }
        })?;
    Ok(())
}

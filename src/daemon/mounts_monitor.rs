//! The thread that waits for changes of the mounts, in this mount namespace and in the host's. The kernel reports them
//! only to poll(2).

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::thread;

use super::timeouts::MOUNTS_GATHER;
use crate::sys::mount::has_changed;

/// Starts the thread. It lives as long as the daemon.
///
/// # Errors
/// This namespace's mounts cannot be read, or the thread cannot be created.
pub(super) fn start(changed: impl Fn() -> bool + Send + 'static) -> io::Result<()> {
    let own = File::open("/proc/self/mountinfo")?;
    let host = File::open("/proc/1/mountinfo").ok();
    thread::Builder::new()
        .name("mounts".into())
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
                thread::sleep(MOUNTS_GATHER); // the kernel remembers changes in the meantime
            }
        })?;
    Ok(())
}

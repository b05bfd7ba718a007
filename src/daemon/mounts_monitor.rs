//! The thread that waits for changes of the mounts, in this mount namespace and in the host's. It is a thread of its
//! own because the kernel reports such changes only to poll(2), as POLLPRI.

use std::fs::File;
use std::io;
use std::thread;

use rustix::event::{PollFd, PollFlags};

use super::handle::{Handle, Request};
use super::timeouts::MOUNTS_GATHER;
use crate::sys::poll;

/// Starts the thread, which runs until the daemon exits.
pub(super) fn start(controller: Handle) -> io::Result<()> {
    let own = File::open("/proc/self/mountinfo")?;
    let host = File::open("/proc/1/mountinfo").ok();
    let watch = move || {
        let host = host.as_ref().unwrap_or(&own);
        loop {
            let files = [&own, host].map(|file| PollFd::new(file, PollFlags::PRI));
            if poll::wait(files, None) == [false, false] {
                continue; // a signal
            }
            controller.send(Request::Recheck);
            thread::sleep(MOUNTS_GATHER); // poll(2) also reports changes during the pause
        }
    };
    thread::Builder::new().name("mounts".into()).spawn(watch)?;
    Ok(())
}

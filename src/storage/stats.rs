//! The kernel's counters for the device and its ext4 filesystem. They are in /sys, so reading them
//! does not touch the card.

use std::fs;
use std::path::{Path, PathBuf};

use crate::wire::Ext4Stats;

/// Counts the bytes written to the storage's device, which may change.
#[derive(Debug, Default)]
pub(super) struct WrittenBytes {
    pub device: (u32, u32),
    /// The device's own count when it was last read.
    last: Option<u64>,
    total: Option<u64>,
}

impl WrittenBytes {
    /// Counts bytes written to `device` from now on.
    pub(super) fn follow(&mut self, device: (u32, u32)) {
        if self.device != device {
            self.device = device;
            self.last = None;
            self.count();
        }
    }

    /// Returns the bytes written to the devices while each was followed; `None` if none has a counter.
    pub(super) fn count(&mut self) -> Option<u64> {
        let (major, minor) = self.device;
        let statistics = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat"));
        self.add(statistics.ok().as_deref().and_then(bytes_written));
        self.total
    }

    fn add(&mut self, written: Option<u64>) {
        if let Some(written) = written {
            // The counter of a device that was removed and inserted again starts at 0.
            let more = self.last.map_or(0, |last| written.saturating_sub(last));
            self.total = Some(self.total.unwrap_or(0) + more);
        }
        self.last = written;
    }
}

/// Parses field 7, which counts sectors of 512 bytes on every device; Documentation/block/stat.rst
/// of Linux.
fn bytes_written(statistics: &str) -> Option<u64> {
    let sectors: u64 = statistics.split_ascii_whitespace().nth(6)?.parse().ok()?;
    sectors.checked_mul(512)
}

/// Reads ext4's counters; `None` for another filesystem.
pub(super) fn ext4(device: (u32, u32)) -> Option<Ext4Stats> {
    let directory = ext4_directory(device)?;
    let bytes = |name| Some(read_number(&directory, name)?.saturating_mul(1024));
    Some(Ext4Stats {
        lifetime: bytes("lifetime_write_kbytes")?,
        since_mount: bytes("session_write_kbytes")?,
        errors: read_number(&directory, "errors_count")?,
    })
}

/// Reads the number of ext4 errors since the last e2fsck; `None` for another filesystem.
pub(super) fn error_count(device: (u32, u32)) -> Option<u64> {
    read_number(&ext4_directory(device)?, "errors_count")
}

fn read_number(directory: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(directory.join(name)).ok()?;
    text.trim().parse().ok()
}

/// Returns the directory of ext4's attributes in /sys; `None` if there is no such device.
pub(crate) fn ext4_directory((major, minor): (u32, u32)) -> Option<PathBuf> {
    let link = fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    Some(Path::new("/sys/fs/ext4").join(link.file_name()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bytes_written_while_a_device_is_followed_count() {
        let mut bytes = WrittenBytes::default();
        for (read, counted) in [
            (None, None),
            (Some(5000), Some(0)),
            (Some(5512), Some(512)),
            (Some(1024), Some(512)),
            (Some(2048), Some(1536)),
            (None, Some(1536)),
            (Some(9000), Some(1536)),
        ] {
            bytes.add(read);
            assert_eq!(bytes.total, counted, "{read:?}");
        }
    }

    #[test]
    fn a_device_without_a_counter_has_no_count() {
        let mut bytes = WrittenBytes::default();
        bytes.follow((0, 1));
        assert_eq!(bytes.count(), None);
    }
}

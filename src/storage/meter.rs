//! What is counted of the storage: remounts, bytes written to its device, and errors.

use super::figures::{self, Kept};

/// What was counted since the daemon's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub remounts: u64,
    /// Remounts that the kernel refused, busy or not.
    pub failed_remounts: u64,
    /// Bytes written to the device, by whomever; `None` where nobody counts them.
    pub written: Option<u64>,
}

/// The counter. It follows the storage from device to device.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    counts: Counts,
    device: (u32, u32),
    statistics: Kept,
    errors: Kept,
    /// What the device's own counter last said; `None` if it has none.
    last: Option<u64>,
}

impl Meter {
    /// This is the device now: what was written to it before is not ours.
    pub(crate) fn follow(&mut self, device: (u32, u32)) {
        if self.device != device {
            self.device = device;
            self.statistics = Kept::default();
            self.errors = Kept::default();
            self.last = None;
            self.read();
            self.errors(); // opened now, so that there is a descriptor for it
        }
    }

    /// The kernel was asked to remount.
    pub(crate) fn remounted(&mut self, done: bool) {
        match done {
            true => self.counts.remounts += 1,
            false => self.counts.failed_remounts += 1,
        }
    }

    pub(crate) fn read(&mut self) -> Counts {
        let (major, minor) = self.device;
        let path = || Some(format!("/sys/dev/block/{major}:{minor}/stat").into());
        let now = self.statistics.read(path).and_then(|text| written(&text));
        self.take(now);
        self.counts
    }

    /// How many errors ext4 has counted since it was last checked; `None` for another filesystem.
    pub(crate) fn errors(&mut self) -> Option<u64> {
        let path = || Some(figures::folder(self.device)?.join("errors_count"));
        self.errors.read(path)?.parse().ok()
    }

    fn take(&mut self, now: Option<u64>) {
        if let Some(now) = now {
            // A device that went and came begins anew.
            let more = self.last.map_or(0, |last| now.saturating_sub(last));
            self.counts.written = Some(self.counts.written.unwrap_or(0) + more);
        }
        self.last = now;
    }
}

/// Bytes written to a block device or partition since it is there. Field 7 of Linux's
/// Documentation/block/stat.rst: in sectors of 512 bytes, whatever the device's.
fn written(statistics: &str) -> Option<u64> {
    let sectors: u64 = statistics.split_ascii_whitespace().nth(6)?.parse().ok()?;
    sectors.checked_mul(512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_before_or_by_a_device_that_came_anew_is_not_counted() {
        let mut meter = Meter::default();
        for (said, counted) in [
            (None, None),
            (Some(5000), Some(0)),
            (Some(5512), Some(512)),
            (Some(1024), Some(512)),
            (Some(2048), Some(1536)),
            (None, Some(1536)),
            (Some(9000), Some(1536)),
        ] {
            meter.take(said);
            assert_eq!(meter.counts.written, counted, "{said:?}");
        }
    }

    #[test]
    fn a_device_without_a_counter_has_none() {
        let mut meter = Meter::default();
        meter.follow((0, 1));
        assert_eq!(meter.read().written, None);
    }
}

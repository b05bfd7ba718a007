//! What ext4 itself has counted on a filesystem, from its folder in /sys. Reading it costs the
//! medium nothing.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::wire::Ext4Stats;

/// The figures of the ext4 on `device`; `None` for another filesystem.
pub(crate) fn read(device: (u32, u32)) -> Option<Ext4Stats> {
    let folder = folder(device)?;
    Some(Ext4Stats {
        lifetime: number(&folder, "lifetime_write_kbytes")?.saturating_mul(1024),
        since_mount: number(&folder, "session_write_kbytes")?.saturating_mul(1024),
        errors: number(&folder, "errors_count")?,
    })
}

/// An attribute of sysfs(5) that is read often, and kept open for that: what it tells of may go all
/// the same, and come again.
#[derive(Debug, Default)]
pub(crate) struct Kept(Option<File>);

impl Kept {
    /// What it says now; `None` where it is not to be had. `path` leads to it.
    pub(crate) fn read(&mut self, path: impl FnOnce() -> Option<PathBuf>) -> Option<String> {
        if let Some(text) = self.0.as_ref().and_then(attribute) {
            return Some(text);
        }
        self.0 = File::open(path()?).ok();
        attribute(self.0.as_ref()?)
    }
}

/// Where the ext4 on `device` has its attributes; `None` where there is no such device.
pub(crate) fn folder((major, minor): (u32, u32)) -> Option<PathBuf> {
    let link = fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    Some(Path::new("/sys/fs/ext4").join(link.file_name()?))
}

fn number(folder: &Path, name: &str) -> Option<u64> {
    text(folder, name)?.parse().ok()
}

fn text(folder: &Path, name: &str) -> Option<String> {
    attribute(&File::open(folder.join(name)).ok()?)
}

/// An attribute of sysfs(5), which comes whole with one read.
fn attribute(file: &File) -> Option<String> {
    let mut text = [0; 512];
    let length = file.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(text.get(..length)?).ok()?;
    Some(text.trim().to_owned())
}

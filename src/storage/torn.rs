//! Finds the storage's partition if a power cut has torn its superblock: the primary copy is invalid,
//! and a backup carries the label or the UUID that fstab names.
//!
//! ext4's superblock takes 1 KiB, two sectors, and a switch between read-only and writable writes both.
//! Offsets and checksum are from the kernel's Documentation/filesystems/ext4/super.rst.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::escape::{escape, escape_path};
use crate::fstab;
use crate::problem::Problem;

const PRIMARY_AT: u64 = 1024;
const SIZE: usize = 1024;
const MAGIC: u16 = 0xef53;
const METADATA_CSUM: u32 = 0x400;
const CHECKSUM_AT: usize = 0x3fc;

/// The result of a search for the device that fstab names.
pub(crate) enum Search {
    /// The device is there, with a valid superblock or without ext4.
    Sound(PathBuf),
    Torn(TornStorage),
    /// There is neither the device nor a partition with such a backup.
    Nothing,
}

/// A partition whose primary superblock is invalid, with a valid backup.
#[derive(Debug, PartialEq)]
pub(crate) struct TornStorage {
    pub device: PathBuf,
    backup_block: u64,
    block_size: u64,
}

impl TornStorage {
    /// Returns the options with which e2fsck(8) reads the backup, and the device.
    pub(crate) fn e2fsck_arguments(&self) -> [String; 5] {
        let [block, size] = [self.backup_block, self.block_size].map(|number| number.to_string());
        let device = self.device.display().to_string();
        ["-b".into(), block, "-B".into(), size, device]
    }
}

/// Searches for the device of an fstab entry.
///
/// # Errors
/// The caller is not root, the device cannot be read, or several partitions fit.
pub(crate) fn find(spec: &OsStr) -> Result<Search, Problem> {
    if !rustix::process::geteuid().is_root() {
        return Err(Problem::new("only root can read block devices").hint("run this as root"));
    }
    if let Some(device) = fstab::device_path(spec).and_then(|path| fs::canonicalize(path).ok()) {
        let read = inspect(&device).map_err(|error| cannot_read(&device, &error))?;
        let torn = read.filter(|(_, backup)| backup.fits(spec));
        return Ok(match torn {
            Some((torn, _)) => Search::Torn(torn),
            None => Search::Sound(device),
        });
    }
    let mut torn = Vec::new();
    for device in
        block_devices().map_err(|error| cannot_read(Path::new("/sys/class/block"), &error))?
    {
        // Ignores a broken disk, and a drive without a medium.
        if let Ok(Some((found, backup))) = inspect(&device) {
            if backup.is_named_by(spec) {
                torn.push(found);
            }
        }
    }
    let names: Vec<_> = torn
        .iter()
        .map(|found| escape_path(&found.device).to_string())
        .collect();
    match torn.pop() {
        Some(found) if torn.is_empty() => Ok(Search::Torn(found)),
        Some(_) => {
            let what = format!(
                "several partitions could be {}: {}",
                escape(spec.as_bytes()),
                names.join(", ")
            );
            Err(Problem::new(what).hint("remove the disk that is not the storage's"))
        }
        None => Ok(Search::Nothing),
    }
}

fn cannot_read(path: &Path, error: &io::Error) -> Problem {
    Problem::io(format!("cannot read {}", escape_path(path)), error)
}

/// Returns the partitions, and the disks without any.
fn block_devices() -> io::Result<Vec<PathBuf>> {
    let mut devices = Vec::new();
    for entry in fs::read_dir("/sys/class/block")? {
        let entry = entry?;
        let parts = fs::read_dir(entry.path())?;
        let is_divided = parts
            .flatten()
            .any(|part| part.path().join("partition").exists());
        if !is_divided {
            // sysfs writes the `/` of a name such as cciss/c0d0 as `!`.
            let name = entry.file_name().to_string_lossy().replace('!', "/");
            devices.push(Path::new("/dev").join(name));
        }
    }
    Ok(devices)
}

/// Returns the first valid backup of a partition whose primary superblock is invalid.
fn inspect(device: &Path) -> io::Result<Option<(TornStorage, Superblock)>> {
    let mut file = File::open(device)?;
    let size = file.seek(SeekFrom::End(0))?;
    if size < PRIMARY_AT + SIZE as u64 || Superblock::read(&file, PRIMARY_AT)?.is_valid() {
        return Ok(None);
    }
    for block_size in [1024, 2048, 4096] {
        // The first backup is at the beginning of group 1. A group has as many blocks as its bitmap has bits.
        let backup_block = 8 * block_size + u64::from(block_size == 1024);
        let at = backup_block * block_size;
        if at + SIZE as u64 > size {
            continue;
        }
        let backup = Superblock::read(&file, at)?;
        let expected = backup.is_valid()
            && backup.is_first_backup()
            && backup.block_size() == Some(block_size);
        if expected && backup.filesystem_size() <= size {
            let device = device.to_owned();
            let torn = TornStorage {
                device,
                backup_block,
                block_size,
            };
            return Ok(Some((torn, backup)));
        }
    }
    Ok(None)
}

struct Superblock([u8; SIZE]);

impl Superblock {
    fn read(device: &File, at: u64) -> io::Result<Self> {
        let mut bytes = [0; SIZE];
        device.read_exact_at(&mut bytes, at)?;
        Ok(Self(bytes))
    }

    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|index| self.0[at + index])
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes(at))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }

    fn is_valid(&self) -> bool {
        let has_checksum = self.u32(0x64) & METADATA_CSUM != 0;
        let checksum = || crc32c(&self.0[..CHECKSUM_AT]) == self.u32(CHECKSUM_AT);
        self.u16(0x38) == MAGIC && (!has_checksum || checksum())
    }

    fn is_first_backup(&self) -> bool {
        self.u16(0x5a) == 1
    }

    fn block_size(&self) -> Option<u64> {
        1024_u64.checked_shl(self.u32(0x18))
    }

    fn filesystem_size(&self) -> u64 {
        u64::from(self.u32(0x4)) * self.block_size().unwrap_or(0)
    }

    /// Whether fstab names this filesystem by its label or UUID.
    fn is_named_by(&self, spec: &OsStr) -> bool {
        let Some((tag, value)) = fstab::tag(spec) else {
            return false;
        };
        match tag {
            "LABEL" => {
                let label = self.bytes::<16>(0x78);
                let end = label
                    .iter()
                    .position(|&byte| byte == 0)
                    .unwrap_or(label.len());
                value.as_bytes() == &label[..end]
            }
            "UUID" => value.replace('-', "").eq_ignore_ascii_case(&self.uuid()),
            _ => false,
        }
    }

    /// Whether the backup can be that of the device that fstab names. A path or a partition's name says nothing about
    /// the filesystem.
    fn fits(&self, spec: &OsStr) -> bool {
        let names_filesystem =
            fstab::tag(spec).is_some_and(|(tag, _)| ["LABEL", "UUID"].contains(&tag));
        !names_filesystem || self.is_named_by(spec)
    }

    /// Returns the digits of the UUID.
    fn uuid(&self) -> String {
        let uuid = u128::from_be_bytes(self.bytes(0x68));
        format!("{uuid:032x}")
    }
}

/// Returns the CRC-32C of ext4: with all bits set at the start, and not inverted at the end.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| match crc & 1 {
            0 => crc >> 1,
            _ => (crc >> 1) ^ 0x82f6_3b78,
        })
    })
}

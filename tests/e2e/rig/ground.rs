//! What a rig stands on: directory, image, loop device, and the janitor that
//! takes everything down, also when this process is killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::job::tool;
use super::wait::wait_until;

pub struct Ground {
    /// Marks this rig's processes, in their environment.
    pub id: String,
    pub dir: PathBuf,
    /// The loop device, once there is one.
    pub device: Option<String>,
    janitor: Child,
}

impl Ground {
    /// A new directory with the binary under its names, and its janitor.
    pub fn new() -> Ground {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!(
            "{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = PathBuf::from(tool(Command::new("mktemp").args([
            "-d",
            "-t",
            "pst-rig.XXXXXX",
        ])));
        let janitor = Command::new("setsid")
            .args(["-w", "sh", "-c", include_str!("janitor.sh"), "janitor", &id])
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("setsid");
        tool(Command::new("chmod").arg("755").arg(&dir));
        let ground = Ground {
            id,
            dir,
            device: None,
            janitor,
        };
        let bin = ground.dir.join("bin");
        fs::create_dir(&bin).expect("bin");
        let pst = bin.join("pst");
        // Never by ourselves: a descriptor open for writing could be inherited
        // by another test's child, and make the binary "busy".
        if fs::hard_link(env!("CARGO_BIN_EXE_pst"), &pst).is_err() {
            tool(Command::new("cp").arg(env!("CARGO_BIN_EXE_pst")).arg(&pst));
        }
        for name in ["kvmd-pst", "kvmd-pstrun"] {
            std::os::unix::fs::symlink("pst", bin.join(name)).expect("symlink");
        }
        ground
    }

    /// Attaches the storage's image to a loop device. Not `mount -o loop,ro`,
    /// which would make the device read-only for ever.
    pub fn attach(&mut self, image: &Path) -> String {
        let device = attach(image);
        self.device = Some(device.clone());
        device
    }

    fn is_cleared(&self) -> bool {
        let dir = self.dir.to_str().expect("UTF-8");
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        !self.dir.exists() && !mounts.contains(dir) && !loops().contains(dir)
    }
}

/// A file of this size with nothing in it.
pub fn sparse(image: &Path, mebibytes: u64) -> PathBuf {
    fs::File::create(image)
        .and_then(|file| file.set_len(mebibytes << 20))
        .expect("image");
    image.to_owned()
}

/// Attaches a file to a free loop device. One rig at a time: see janitor.sh.
pub fn attach(image: &Path) -> String {
    let mut device = None;
    // Another test may take the free device between finding and using it.
    wait_until("a loop device is free", || {
        let found = Command::new("flock")
            .args(["/dev/loop-control", "losetup", "-f", "--show"])
            .arg(image)
            .output()
            .expect("losetup");
        device = found
            .status
            .success()
            .then(|| String::from_utf8_lossy(&found.stdout).trim().to_owned());
        device.is_some()
    });
    let device = device.expect("just found");
    // The flag outlives a test that set it and was killed.
    tool(Command::new("blockdev").args(["--setrw", &device]));
    device
}

fn loops() -> String {
    let output = Command::new("losetup")
        .args(["-nO", "BACK-FILE"])
        .output()
        .expect("losetup");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.janitor.stdin = None;
        let _ = self.janitor.wait();
        if !std::thread::panicking() {
            wait_until(
                "no mount, loop device or directory of the rig is left",
                || self.is_cleared(),
            );
        }
    }
}

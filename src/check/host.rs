//! The host that is checked: its files, or a directory tree in their place for tests.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::process;

#[derive(Clone, Debug)]
pub(super) struct Host {
    /// `/`, or a test's directory tree.
    pub root: PathBuf,
    /// The PATH of the caller, where other programs may hide ours.
    pub path: OsString,
    /// Effective, like the groups, which include the supplementary ones.
    pub user: u32,
    pub groups: Vec<u32>,
}

impl Host {
    /// Returns this machine and this process.
    pub(super) fn real() -> Host {
        let supplementary = process::getgroups().unwrap_or_default();
        let groups = supplementary.into_iter().chain([process::getegid()]);
        Host {
            root: "/".into(),
            path: std::env::var_os("PATH").unwrap_or_default(),
            user: process::geteuid().as_raw(),
            groups: groups.map(|gid| gid.as_raw()).collect(),
        }
    }

    /// Returns the location of an absolute path below `root`.
    pub(super) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Whether systemd is the service manager; sd_booted(3).
    pub(super) fn has_systemd(&self) -> bool {
        self.at("/run/systemd/system").is_dir()
    }

    /// Returns how to restart the daemon.
    pub(super) fn restart_advice(&self) -> &'static str {
        match self.has_systemd() {
            true => "`systemctl restart pst` (this ends open sessions)",
            false => "restart the daemon (this ends open sessions)",
        }
    }

    pub(super) fn is_root(&self) -> bool {
        self.user == 0
    }
}

/// Reads the first line of a file in /proc or /sys.
pub(super) fn read_line(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    Some(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// Whether permissions keep this process from reading a file or directory.
pub(super) fn is_forbidden(path: &Path) -> bool {
    fs::File::open(path).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A directory tree in place of `/`, removed when it is dropped.
    pub struct HostTree(pub Host);

    impl HostTree {
        pub fn new() -> HostTree {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("pst-check-{}-{number}", std::process::id());
            let root = std::env::temp_dir().join(name);
            fs::create_dir(&root).unwrap();
            HostTree(Host {
                root,
                path: OsString::new(),
                user: 0,
                groups: Vec::new(),
            })
        }

        pub fn file(&self, path: &str, content: &str) -> &HostTree {
            let at = self.0.at(path);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            fs::write(at, content).unwrap();
            self
        }

        pub fn link(&self, path: &str, target: &str) -> &HostTree {
            let at = self.0.at(path);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(target, at).unwrap();
            self
        }
    }

    impl Drop for HostTree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0.root);
        }
    }
}

//! What a check looks at: the host's own files, or a tree that stands for them; and who looks.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::sys::current;

/// Where everything is, and whose eyes these are.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    /// `/`, or the tree that stands for it.
    pub root: PathBuf,
    pub path: OsString,
    pub user: u32,
}

impl Sight {
    /// This machine, seen by this process.
    pub(super) fn real() -> Sight {
        Sight {
            root: "/".into(),
            path: std::env::var_os("PATH").unwrap_or_default(),
            user: current::effective_uid(),
        }
    }

    /// Where an absolute path is.
    pub(super) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// What a file of one line says, as in /proc and /sys.
    pub(super) fn line(&self, path: impl AsRef<Path>) -> Option<String> {
        let bytes = fs::read(self.at(path)).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        Some(text.lines().next().unwrap_or_default().trim().to_owned())
    }

    pub(super) fn is_root(&self) -> bool {
        self.user == 0
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A tree that stands for `/`; removed at the end, also of a failed test.
    pub struct Tree(pub Sight);

    impl Tree {
        pub fn new() -> Tree {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("pst-check-{}-{number}", std::process::id());
            let root = std::env::temp_dir().join(name);
            fs::create_dir(&root).unwrap();
            Tree(Sight {
                root,
                path: OsString::new(),
                user: 0,
            })
        }

        pub fn file(&self, path: &str, content: &str) -> &Tree {
            let at = self.0.at(path);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            fs::write(at, content).unwrap();
            self
        }

        pub fn link(&self, path: &str, target: &str) -> &Tree {
            let at = self.0.at(path);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(target, at).unwrap();
            self
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0.root);
        }
    }
}

//! The programs in the caller's PATH: whether `kvmd-pst` and `kvmd-pstrun` are this program.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::finding::{Finding, Id};
use super::host::Host;
use crate::escape::escape_path;

/// Scripts call pst by these names.
const NAMES: [&str; 2] = ["kvmd-pstrun", "kvmd-pst"];

pub(super) fn check(host: &Host) -> Finding {
    let Some(own) = read_inode(&host.at("/proc/self/exe")) else {
        return Id::Path.skipped("/proc/self/exe cannot be read");
    };
    for name in NAMES {
        let text = match find_program(host, name) {
            Some(path) if read_inode(&path) == Some(own) => continue,
            Some(path) => format!("{name} is another program: {}", escape_path(&path)),
            None => format!("there is no {name} in PATH"),
        };
        let advice = format!(
            "scripts use that name: remove what comes first in PATH, or \
             `ln -s \"$(command -v pst)\" /usr/local/bin/{name}`"
        );
        return Id::Path.warning(text, advice);
    }
    Id::Path.ok("kvmd-pst and kvmd-pstrun are this program")
}

fn read_inode(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Returns the first executable with this name in PATH.
fn find_program(host: &Host, name: &str) -> Option<PathBuf> {
    std::env::split_paths(&host.path)
        .map(|directory| host.at(directory.join(name)))
        .find(|path| {
            let metadata = fs::metadata(path);
            metadata.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        })
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::super::host::tests::HostTree;
    use super::*;

    fn create_program(tree: &HostTree, path: &str) {
        tree.file(path, "");
        fs::set_permissions(tree.0.at(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn another_program_that_comes_first_in_path_is_found() {
        let tree = HostTree::new();
        let mut host = tree.0.clone();
        create_program(&tree, "/usr/bin/pst");
        tree.link("/proc/self/exe", "../../usr/bin/pst");
        host.path = "/usr/local/bin:/usr/bin".into();
        let text = |host: &Host| check(host).text;
        assert_eq!(check(&host).level, Level::Warning);
        assert_eq!(text(&host), "there is no kvmd-pstrun in PATH");
        for name in NAMES {
            create_program(&tree, &format!("/usr/bin/{name}"));
        }
        assert!(text(&host).contains("another program"), "{}", text(&host));
        for name in NAMES {
            tree.link(&format!("/usr/local/bin/{name}"), "../../bin/pst");
        }
        assert_eq!(check(&host).level, Level::Ok);
        host.path = "/usr/bin:/usr/local/bin".into();
        assert_eq!(check(&host).level, Level::Warning);
        assert!(
            text(&host).contains("/usr/bin/kvmd-pstrun"),
            "{}",
            text(&host)
        );
    }

    #[test]
    fn a_file_that_is_not_executable_is_not_a_program() {
        let tree = HostTree::new();
        let mut host = tree.0.clone();
        create_program(&tree, "/bin/pst");
        tree.link("/proc/self/exe", "../../bin/pst");
        tree.file("/first/kvmd-pst", "")
            .link("/bin/kvmd-pst", "pst");
        tree.link("/bin/kvmd-pstrun", "pst");
        host.path = "/first:/bin".into();
        assert_eq!(check(&host).level, Level::Ok);
    }
}

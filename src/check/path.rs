//! The programs that the caller gets as `pst`, `kvmd-pst` and `kvmd-pstrun`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::finding::{Finding, Id};
use super::host::Host;
use crate::escape::escape_path;

/// Scripts call pst by these names.
const SYMLINKS: [&str; 2] = ["kvmd-pstrun", "kvmd-pst"];

pub(super) fn check(host: &Host) -> Finding {
    let Some(own) = inode(&host.at("/proc/self/exe")) else {
        return Id::Path.skipped("/proc/self/exe cannot be read");
    };
    let mut names = SYMLINKS.into_iter().chain(["pst"]);
    names
        .find_map(|name| check_name(host, name, own))
        .unwrap_or_else(|| Id::Path.ok("pst, kvmd-pst and kvmd-pstrun mean this program"))
}

fn check_name(host: &Host, name: &str, own: (u64, u64)) -> Option<Finding> {
    let programs = programs(host, name);
    let first = programs.first();
    let ours = programs.iter().find(|path| inode(path) == Some(own));
    let advice =
        format!("`ln -s \"$(command -v pst)\" /usr/local/bin/{name}`: scripts use that name");
    if first.is_some() && first == ours {
        return None;
    }
    match (first.map(|path| escape_path(path)), ours) {
        (Some(other), Some(ours)) => Some(Id::Path.warning(
            format!("{other} comes before {} in PATH", escape_path(ours)),
            format!("scripts get the wrong program: remove {other}, or change the order in PATH"),
        )),
        _ if !SYMLINKS.contains(&name) => None,
        (Some(other), None) => {
            Some(Id::Path.warning(format!("{name} is another program: {other}"), advice))
        }
        (None, _) => Some(Id::Path.warning(format!("there is no {name} in PATH"), advice)),
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Returns the executables of that name, in the order of PATH.
fn programs(host: &Host, name: &str) -> Vec<PathBuf> {
    std::env::split_paths(&host.path)
        .map(|directory| host.at(directory.join(name)))
        .filter(|path| {
            let metadata = fs::metadata(path);
            metadata.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::super::host::tests::Tree;
    use super::*;

    fn program(tree: &Tree, path: &str) {
        tree.file(path, "");
        fs::set_permissions(tree.0.at(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn other_programs_are_found_where_they_come_first() {
        let tree = Tree::new();
        let mut host = tree.0.clone();
        program(&tree, "/usr/bin/pst");
        tree.link("/proc/self/exe", "../../usr/bin/pst");
        host.path = "/usr/local/bin:/usr/bin".into();
        let text = |host: &Host| check(host).text;
        assert_eq!(check(&host).level, Level::Warning);
        assert_eq!(text(&host), "there is no kvmd-pstrun in PATH");
        for name in SYMLINKS {
            program(&tree, &format!("/usr/bin/{name}"));
        }
        assert!(text(&host).contains("another program"), "{}", text(&host));
        for name in SYMLINKS {
            tree.link(&format!("/usr/local/bin/{name}"), "../../bin/pst");
        }
        assert_eq!(check(&host).level, Level::Ok);
        host.path = "/usr/bin:/usr/local/bin".into();
        assert_eq!(check(&host).level, Level::Warning);
        assert!(text(&host).contains(" comes before "), "{}", text(&host));
    }

    #[test]
    fn a_file_that_is_not_executable_is_not_a_program() {
        let tree = Tree::new();
        let mut host = tree.0.clone();
        program(&tree, "/bin/pst");
        tree.link("/proc/self/exe", "../../bin/pst");
        tree.file("/first/pst", "").link("/bin/kvmd-pst", "pst");
        tree.link("/bin/kvmd-pstrun", "pst");
        host.path = "/first:/bin".into();
        assert_eq!(check(&host).level, Level::Ok);
    }
}

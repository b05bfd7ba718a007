//! What the caller gets by calling `pst`, `kvmd-pst` and `kvmd-pstrun`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::finding::{Finding, Id};
use super::sight::Sight;
use crate::escape::escape_path;

const SYMLINKS: [&str; 2] = ["kvmd-pstrun", "kvmd-pst"];

/// The names under which scripts call it, and who comes first.
pub(super) fn look(sight: &Sight) -> Vec<Finding> {
    let Some(own) = identity(&sight.at("/proc/self/exe")) else {
        return vec![Finding::unseen(
            Id::Symlinks,
            "which program this is: /proc/self/exe cannot be read",
        )];
    };
    vec![symlinks(sight, own), order(sight, own)]
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// What a name means, first what a shell takes.
fn all(sight: &Sight, name: &str) -> Vec<PathBuf> {
    std::env::split_paths(&sight.path)
        .map(|directory| sight.at(directory.join(name)))
        .filter(|path| {
            let metadata = fs::metadata(path);
            metadata.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        })
        .collect()
}

fn symlinks(sight: &Sight, own: (u64, u64)) -> Finding {
    let is_own = |path: &PathBuf| identity(path) == Some(own);
    let missing: Vec<&str> = SYMLINKS
        .into_iter()
        .filter(|name| !all(sight, name).iter().any(is_own))
        .collect();
    match missing[..] {
        [] => Finding::ok(
            Id::Symlinks,
            "kvmd-pst and kvmd-pstrun are names of this program",
        ),
        [first, ..] => {
            let instead = match all(sight, first).first() {
                Some(other) => format!("{first} is another program: {}", escape_path(other)),
                None => format!("there is no {} in PATH", missing.join(", no ")),
            };
            Finding::warning(
                Id::Symlinks,
                instead,
                format!(
                    "`ln -s \"$(command -v pst)\" /usr/local/bin/{first}`: scripts call it by that name"
                ),
            )
        }
    }
}

/// Whether another program of the same name comes before it.
fn order(sight: &Sight, own: (u64, u64)) -> Finding {
    let is_own = |path: &PathBuf| identity(path) == Some(own);
    let before = ["pst"].into_iter().chain(SYMLINKS).find_map(|name| {
        let all = all(sight, name);
        let first = all.first()?;
        let ours = all.iter().find(|path| is_own(path))?;
        (!is_own(first)).then(|| (first.clone(), ours.clone()))
    });
    match before {
        None => Finding::ok(Id::PathOrder, "nothing of the same name comes before them"),
        Some((first, ours)) => Finding::warning(
            Id::PathOrder,
            format!(
                "{} comes before {} in PATH",
                escape_path(&first),
                escape_path(&ours)
            ),
            format!(
                "remove {}, or put {} before {} in PATH: until then scripts get the other program",
                escape_path(&first),
                escape_path(ours.parent().unwrap_or(&ours)),
                escape_path(first.parent().unwrap_or(&first))
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::super::sight::tests::Tree;
    use super::*;

    fn program(tree: &Tree, path: &str) {
        tree.file(path, "");
        fs::set_permissions(tree.0.at(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn levels(sight: &Sight) -> [Level; 2] {
        let levels: Vec<Level> = look(sight).iter().map(|found| found.level).collect();
        levels.try_into().unwrap()
    }

    #[test]
    fn the_old_programs_are_found_where_they_come_first() {
        let tree = Tree::new();
        let mut sight = tree.0.clone();
        program(&tree, "/usr/bin/pst");
        tree.link("/proc/self/exe", "../../usr/bin/pst");
        sight.path = "/usr/local/bin:/usr/bin".into();
        assert_eq!(levels(&sight), [Level::Warning, Level::Ok], "no links");
        for name in SYMLINKS {
            program(&tree, &format!("/usr/bin/{name}"));
        }
        let found = look(&sight);
        assert!(found[0].text.contains("another program"), "{found:?}");
        for name in SYMLINKS {
            tree.link(&format!("/usr/local/bin/{name}"), "../../bin/pst");
        }
        assert_eq!(levels(&sight), [Level::Ok; 2]);
        sight.path = "/usr/bin:/usr/local/bin".into();
        assert_eq!(levels(&sight), [Level::Ok, Level::Warning]);
    }

    #[test]
    fn what_cannot_be_executed_is_no_program() {
        let tree = Tree::new();
        let mut sight = tree.0.clone();
        program(&tree, "/bin/pst");
        tree.link("/proc/self/exe", "../../bin/pst");
        tree.file("/first/pst", "").link("/bin/kvmd-pst", "pst");
        tree.link("/bin/kvmd-pstrun", "pst");
        sight.path = "/first:/bin".into();
        assert_eq!(levels(&sight), [Level::Ok; 2]);
    }
}

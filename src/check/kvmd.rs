//! kvmd beside pst: settings for its own `kvmd-pst`, which have no effect here, and the directory that
//! its clients use.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::finding::{Finding, Id};
use super::host::Host;
use crate::config::{Config, StorageLocation};
use crate::escape::{escape, escape_path};
use crate::problem::reason;

/// Users change kvmd's settings in this file, and in the files of the directory.
const OVERRIDE: &str = "/etc/kvmd/override.yaml";
const OVERRIDES: &str = "/etc/kvmd/override.d";

/// Exists where kvmd is installed.
const KVMD: &str = "/usr/bin/kvmd";

/// kvmd's keys for `kvmd-pst`, each with what replaces it.
const COUNTERPARTS: [(&str, &str); 8] = [
    (
        "pst/server/unix",
        "set `socket` in pst.toml, and ListenStream= with `systemctl edit pst.socket`",
    ),
    (
        "pst/server/unix_mode",
        "set `socket_mode` in pst.toml, and SocketMode= with `systemctl edit pst.socket`",
    ),
    (
        "pst/server/unix_rm",
        "there is no such setting: pst replaces a socket that nobody answers at",
    ),
    (
        "pst/server/heartbeat",
        "there is no such setting: a session ends with its connection",
    ),
    (
        "pst/server/access_log_format",
        "there is no such setting: see --log-level in pst-daemon(8)",
    ),
    (
        "pst/ro_retries_delay",
        "there is no such setting: pst tries again as soon as a file is closed",
    ),
    (
        "pst/ro_cleanup_delay",
        "set `kill_grace` under [session] in pst.toml: the time that commands get to end",
    ),
    (
        "pst/remount_cmd",
        "there is no such setting: pst remounts without another program",
    ),
];

pub(super) fn check(host: &Host) -> Vec<Finding> {
    let names = fs::read_dir(host.at(OVERRIDES)).into_iter().flatten();
    let names = names.flatten().map(|entry| entry.file_name());
    let mut files: Vec<PathBuf> = names.map(|name| Path::new(OVERRIDES).join(name)).collect();
    files.retain(|file| file.extension().is_some_and(|end| end == "yaml"));
    files.sort();
    files.insert(0, OVERRIDE.into());
    files
        .iter()
        .flat_map(|file| check_file(host, file))
        .collect()
}

/// Checks that kvmd's clients and ours write to the same directory. `None` where kvmd is not installed.
pub(super) fn compare_data(
    config: &Config,
    location: &StorageLocation,
    host: &Host,
) -> Option<Finding> {
    if !host.at(KVMD).exists() {
        return None;
    }
    let ours = location.root.join(&location.data);
    let theirs = location.root.join(&config.kvmd_api_path);
    let data = escape_path(&ours);
    if ours.components().eq(theirs.components()) {
        return Some(Id::KvmdData.ok(format!("KVMD_PST_DATA and kvmd's API name {data}")));
    }
    let text = format!(
        "KVMD_PST_DATA is {data}, but kvmd's API and clients name {}: a link or path that one client \
         stores dangles for the other",
        escape_path(&theirs)
    );
    let advice = "set `data = \"\"` under [storage] in the config file, as kvmd 4.8 and later have it, move \
                  the files, and restart pst; or set `path` under [kvmd_api] to the same directory";
    Some(Id::KvmdData.warning(text, advice))
}

fn check_file(host: &Host, file: &Path) -> Vec<Finding> {
    let shown = escape_path(file);
    let text = match fs::read(host.at(file)) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            let text = format!("{shown} cannot be read: {}", reason(&error));
            return vec![Id::KvmdConfig.skipped(text)];
        }
    };
    let settings = pst_settings(&text).into_iter();
    let findings = settings.map(|(line, key)| {
        let known = COUNTERPARTS.iter().find(|(other, _)| *other == key);
        let advice = known.map_or("see pst.toml(5) for pst's settings", |(_, advice)| *advice);
        let key = escape(key.as_bytes());
        let text = format!("{shown}, line {line}: {key} has no effect on pst");
        Id::KvmdConfig.warning(text, format!("{advice}; then remove the key here"))
    });
    findings.collect()
}

/// Returns the keys below `pst:` that have a value, as paths, with their line numbers. Reads the block
/// style of YAML; a section in braces is returned as one key.
fn pst_settings(text: &str) -> Vec<(usize, String)> {
    let keys: Vec<(usize, usize, &str, bool)> = (1..)
        .zip(text.lines())
        .filter_map(|(line, content)| {
            let (indent, key, has_value) = parse_key(content)?;
            Some((line, indent, key, has_value))
        })
        .collect();
    let mut settings = Vec::new();
    let mut sections: Vec<(usize, &str)> = Vec::new();
    for (number, &(line, indent, key, has_value)) in keys.iter().enumerate() {
        sections.retain(|(outer, _)| *outer < indent);
        sections.push((indent, key));
        let is_section = keys.get(number + 1).is_some_and(|next| next.1 > indent);
        if sections[0] == (0, "pst") && (has_value || indent > 0 && !is_section) {
            let path: Vec<&str> = sections.iter().map(|(_, key)| *key).collect();
            settings.push((line, path.join("/")));
        }
    }
    settings
}

/// Returns the indentation and the key of a line `key: value`, and whether it has a value.
fn parse_key(line: &str) -> Option<(usize, &str, bool)> {
    let content = line.trim_start_matches(' ');
    let (key, value) = content.split_once(':')?;
    if content.starts_with(['#', '-']) || !(value.is_empty() || value.starts_with([' ', '\t'])) {
        return None;
    }
    let value = value.trim();
    let has_value = !value.is_empty() && !value.starts_with('#') && value != "{}";
    let key = key.trim_end().trim_matches(['"', '\'']);
    Some((line.len() - content.len(), key, has_value))
}

#[cfg(test)]
mod tests {
    use super::super::host::tests::HostTree;
    use super::*;

    #[test]
    fn each_key_for_kvmds_daemon_is_found_with_its_line() {
        let text = r"# my settings: pst:
kvmd:
    pst: 1
    server:
        unix: /run/x

pst:   # the storage
    # ro_retries_delay: 1
    ro_retries_delay: 5.0
    'server':
        unix: /run/other.sock
        unix_mode: 0666   # all
    remount_cmd:
        - /usr/bin/sudo
        - a: b

    new_key: 1
otg:
    remote_wakeup: true
";
        let found = pst_settings(text);
        let found: Vec<(usize, &str)> = found
            .iter()
            .map(|(line, key)| (*line, key.as_str()))
            .collect();
        let expected = [
            (9, "pst/ro_retries_delay"),
            (11, "pst/server/unix"),
            (12, "pst/server/unix_mode"),
            (13, "pst/remount_cmd"),
            (17, "pst/new_key"),
        ];
        assert_eq!(found, expected);
        assert_eq!(
            pst_settings("pst: {ro_cleanup_delay: 1}"),
            [(1, "pst".into())]
        );
        for text in ["", "pst:", "pst: {}\n", "pst:\nkvmd:\n    a: 1\n", "\tx"] {
            assert_eq!(pst_settings(text), [], "{text}");
        }
    }

    #[test]
    fn every_file_of_overrides_is_read_and_the_advice_names_the_counterpart() {
        let tree = HostTree::new();
        assert_eq!(check(&tree.0), []);
        tree.file(OVERRIDE, "pst:\n  server:\n    unix_mode: 0666\n")
            .file("/etc/kvmd/override.d/b.yaml", "pst:\n  x: 1\n")
            .file("/etc/kvmd/override.d/a.yaml", "pst: {a: b}\n")
            .file("/etc/kvmd/override.d/c.yaml.old", "pst: {a: b}\n");
        let findings = check(&tree.0);
        let texts: Vec<&str> = findings.iter().map(|found| found.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "/etc/kvmd/override.yaml, line 3: pst/server/unix_mode has no effect on pst",
                "/etc/kvmd/override.d/a.yaml, line 1: pst has no effect on pst",
                "/etc/kvmd/override.d/b.yaml, line 2: pst/x has no effect on pst",
            ]
        );
        let advice = findings[0].advice.as_deref().unwrap();
        assert!(advice.starts_with("set `socket_mode` in pst.toml"));
    }
}

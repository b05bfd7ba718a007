//! Tests of the config file. `location` tests the storage's location.

mod location;

use super::*;

fn parse(text: &str) -> Result<Config, Problem> {
    Config::parse(text, Path::new("/etc/kvmd/pst.toml"))
}

/// A temporary file, removed when it is dropped.
struct File(PathBuf);

impl File {
    fn new(content: &[u8]) -> File {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pst-config-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, content).unwrap();
        File(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn every_key_is_optional() {
    assert_eq!(parse("").unwrap(), Config::default());
    assert_eq!(parse("[storage]\n[session]\n").unwrap(), Config::default());
}

#[test]
fn every_key_is_read() {
    let config = parse(
        r#"
        socket = "/tmp//x/./pst.sock/"
        socket_mode = 0o777
        group = "g"
        [storage]
        mount = "/m/"
        root = "/m/r"
        user = "u"
        group = "1000"
        data = "./a//b/"
        fstab = "/tmp/fstab"
        volatile = true
        [session]
        kill_grace = 2
        limit = 1
        [kvmd_api]
        path = "./b//"
        "#,
    )
    .unwrap();
    assert_eq!(config.socket.as_os_str(), "/tmp/x/pst.sock");
    assert_eq!(config.socket_mode, 0o777);
    assert_eq!(config.group, "g");
    assert_eq!(config.storage.mount.unwrap().as_os_str(), "/m");
    assert_eq!(config.storage.root.unwrap().as_os_str(), "/m/r");
    assert_eq!(config.storage.user.unwrap(), "u");
    assert_eq!(config.storage.group.unwrap(), "1000");
    assert_eq!(config.storage.data.as_os_str(), "a/b");
    assert_eq!(config.storage.fstab.as_os_str(), "/tmp/fstab");
    assert!(config.storage.volatile);
    assert_eq!(config.kill_grace, Duration::from_secs(2));
    assert_eq!(config.limit, 1);
    assert_eq!(config.kvmd_api_path.as_os_str(), "b");
    for root_itself in ["", ".", "./"] {
        let config = parse(&format!("[storage]\ndata = \"{root_itself}\"")).unwrap();
        assert_eq!(config.storage.data.as_os_str(), "");
    }
    for (text, grace) in [("0", 0.0), ("-0.0", 0.0), ("0.25", 0.25), ("3600", 3600.0)] {
        let config = parse(&format!("session.kill_grace = {text}")).unwrap();
        assert_eq!(config.kill_grace.as_secs_f64(), grace);
    }
}

#[test]
fn the_sample_file_shows_the_defaults() {
    let sample = include_str!("../../contrib/pst.toml");
    assert_eq!(parse(sample).unwrap(), Config::default());

    let uncommented: String = sample
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if !key.is_empty() && !key.starts_with(' ') => format!("{key}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let mut shown = Config::default();
    shown.storage.mount = Some("/var/lib/kvmd/pst".into());
    shown.storage.root = Some("/var/lib/kvmd/pst".into());
    shown.storage.user = Some("kvmd-pst".into());
    shown.storage.group = Some("kvmd-pst".into());
    assert_eq!(parse(&uncommented).unwrap(), shown);
    let keys = uncommented.lines().filter(|line| line.contains(" = "));
    assert_eq!(keys.count(), 13, "a key is missing");
}

#[test]
fn every_error_is_one_line_with_its_position() {
    for (text, error) in ERRORS {
        let problem = parse(text).unwrap_err();
        let line = format!("/etc/kvmd/pst.toml:{error}");
        assert_eq!(problem.to_string(), line, "{text}");
        assert_eq!(problem.kind, ProblemKind::Usage);
    }
    let long = format!("socket = \"/{}\"", "x".repeat(107));
    let line = parse(&long).unwrap_err().to_string();
    assert!(line.contains(":1:10: a socket's path has at most 107 bytes"));
    assert!(parse(&long.replacen('x', "", 1)).is_ok());
}

const ERRORS: &[(&str, &str)] = &[
    (
        "foo = 1",
        "1:1: unknown key `foo`, expected one of `socket`, `socket_mode`, `group`, `storage`, `session`, `kvmd_api`",
    ),
    (
        r#""\u001bc\n" = 1"#,
        r"1:1: unknown key `\x1bc\n`, expected one of `socket`, `socket_mode`, `group`, `storage`, `session`, `kvmd_api`",
    ),
    (
        "socket = 5",
        "1:10: invalid type: integer, expected a string",
    ),
    (
        "socket = \"pst.sock\"",
        "1:10: \"pst.sock\" must be an absolute path without `..`",
    ),
    (
        "socket = \"/run/../pst.sock\"",
        "1:10: \"/run/../pst.sock\" must be an absolute path without `..`",
    ),
    (
        "socket = \"\"",
        "1:10: \"\" must be an absolute path without `..`",
    ),
    (
        "  socket_mode = 660",
        "1:17: 660 is not octal, as a mode must be: write 0o660",
    ),
    (
        "socket_mode = 0o1000",
        "1:15: 0o1000 is out of range: 0o000 to 0o777",
    ),
    (
        "socket_mode = -1",
        "1:15: -1 is not octal, as a mode must be: write 0o660",
    ),
    (
        "socket_mode = \"0o660\"",
        "1:15: invalid type: string, expected an integer",
    ),
    (
        "socket_mode = 99999999999999999999",
        "1:15: 99999999999999999999 is not octal, as a mode must be: write 0o660",
    ),
    (
        "socket_mode = 0x1B0",
        "1:15: 0x1B0 is not octal, as a mode must be: write 0o660",
    ),
    ("group = \"\"", "1:9: a name must not be empty"),
    (
        "group = [\"a\", \"b\"]",
        "1:9: invalid type: array, expected a string",
    ),
    (
        "storage = 5",
        "1:11: invalid type: integer, expected a table",
    ),
    (
        "[storage]\nmuont = \"/m\"",
        "2:1: unknown key `muont`, expected one of `mount`, `root`, `user`, `group`, `data`, `fstab`, `volatile`",
    ),
    (
        "[session]\nlimits = 5",
        "2:1: unknown key `limits`, expected one of `kill_grace`, `limit`",
    ),
    (
        "[kvmd_api]\npaht = \"/p\"",
        "2:1: unknown key `paht`, expected one of `path`",
    ),
    (
        "[storage]\nmount = \"m\"",
        "2:9: \"m\" must be an absolute path without `..`",
    ),
    (
        "[storage]\nroot = \"r/../x\"",
        "2:8: \"r/../x\" must be an absolute path without `..`",
    ),
    (
        "[storage]\ndata = \"/data\"",
        "2:8: \"/data\" must be a path below the storage root, without `..`",
    ),
    (
        "[storage]\ndata = \"a/../..\"",
        "2:8: \"a/../..\" must be a path below the storage root, without `..`",
    ),
    (
        "[storage]\ndata = \"a\\u0000b\"",
        "2:8: \"a\\0b\" must be a path below the storage root, without `..`",
    ),
    (
        "[storage]\nvolatile = \"yes\"",
        "2:12: invalid type: string, expected a boolean",
    ),
    ("[storage]\nuser = \"\"", "2:8: a name must not be empty"),
    (
        "[storage]\n\n  [session]\nkill_grace = nan",
        "4:14: nan is out of range: 0 to 3600 seconds",
    ),
    (
        "[session]\nkill_grace = inf",
        "2:14: inf is out of range: 0 to 3600 seconds",
    ),
    (
        "[session]\nkill_grace = -0.1",
        "2:14: -0.1 is out of range: 0 to 3600 seconds",
    ),
    (
        "[session]\nkill_grace = 1e300",
        "2:14: 1e300 is out of range: 0 to 3600 seconds",
    ),
    (
        "[session]\nkill_grace = \"1\"",
        "2:14: invalid type: string, expected a number",
    ),
    (
        "[session]\nlimit = 0",
        "2:9: 0 is out of range: 1 to 1000000 connections",
    ),
    (
        "[session]\nlimit = 1000001",
        "2:9: 1000001 is out of range: 1 to 1000000 connections",
    ),
    (
        "[session]\nlimit = -5",
        "2:9: -5 is out of range: 1 to 1000000 connections",
    ),
    (
        "[session]\nlimit = 1.5",
        "2:9: invalid type: float, expected an integer",
    ),
    (
        "# ä\ngroup = \"ä\" x",
        "2:13: unexpected key or value, expected newline, `#`",
    ),
    ("group = \"a\"\ngroup = \"b\"", "2:1: duplicate key"),
    ("[storage\n", "1:9: unclosed table, expected `]`"),
    (
        "group =",
        "1:8: string values must be quoted, expected literal string",
    ),
    ("group = \"a", "1:11: invalid basic string, expected `\"`"),
    ("[[storage]]", "1:1: invalid type: array, expected a table"),
    (
        "[sesion]",
        "1:2: unknown key `sesion`, expected one of `socket`, `socket_mode`, `group`, `storage`, `session`, `kvmd_api`",
    ),
    ("nonsense", "1:9: key with no value, expected `=`"),
    (
        "storage = []",
        "1:11: invalid type: array, expected a table",
    ),
    (
        "session = [1.0, 5]",
        "1:11: invalid type: array, expected a table",
    ),
    (
        "[storage]\nmount = \"x\ny\"",
        "3:3: key with no value, expected `=`",
    ),
    (
        "[storage]\nmount = \"a\" \"b\"",
        "2:13: unexpected key or value, expected newline, `#`",
    ),
];

#[test]
fn a_missing_file_is_an_error_only_if_it_is_required() {
    let path = Path::new("/nonexistent/pst.toml");
    assert_eq!(Config::load(path, false).unwrap(), Config::default());
    assert_eq!(
        Config::load(path, true).unwrap_err().to_string(),
        "cannot read /nonexistent/pst.toml: no such file or directory"
    );
    assert!(Config::load(Path::new("/"), false).is_err());
}

#[test]
fn a_file_that_is_not_utf8_is_named_with_the_position() {
    let file = File::new(b"group = \"x\"\n# \xc3\xa4 \xff\n");
    let error = Config::load(&file.0, false).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{}:2:5: not UTF-8", file.0.display())
    );
}

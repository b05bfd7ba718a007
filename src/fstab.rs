//! Parses fstab(5). `config` decides which entry is the storage's.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Options that set whether access times are kept. Each exists with `no` before it, too. `lazytime`
/// only delays writing them.
const ATIME_OPTIONS: [&str; 4] = ["atime", "diratime", "relatime", "strictatime"];

/// One line of fstab, with its octal escapes resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The line's number, from 1.
    pub line: usize,
    /// The device, `LABEL=…`, `UUID=…`, …
    pub spec: OsString,
    /// The mount point as written; `none` for swap.
    pub mount: PathBuf,
    pub fstype: OsString,
    pub options: Vec<OsString>,
}

impl Entry {
    /// Returns the value of an option, empty if the option has none. The last one counts, as in
    /// mount(8).
    pub fn option(&self, name: &str) -> Option<&OsStr> {
        self.options.iter().rev().find_map(|option| {
            match option.as_bytes().strip_prefix(name.as_bytes())? {
                [] => Some(OsStr::new("")),
                [b'=', value @ ..] => Some(OsStr::from_bytes(value)),
                _ => None,
            }
        })
    }

    pub fn has_option_beginning(&self, prefix: &str) -> bool {
        self.options
            .iter()
            .any(|option| option.as_bytes().starts_with(prefix.as_bytes()))
    }

    pub fn names_atime(&self) -> bool {
        self.options.iter().any(|option| {
            let option = option.to_str().unwrap_or_default();
            ATIME_OPTIONS.contains(&option.strip_prefix("no").unwrap_or(option))
        })
    }
}

/// # Errors
/// The number of the first line with fewer than four fields, and the number of its fields.
pub fn parse(text: &[u8]) -> Result<Vec<Entry>, (usize, usize)> {
    let mut entries = Vec::new();
    for (line, content) in (1..).zip(text.split(|&byte| byte == b'\n')) {
        let fields: Vec<&[u8]> = content
            .split(|&byte| matches!(byte, b' ' | b'\t' | b'\r'))
            .filter(|field| !field.is_empty())
            .collect();
        match fields[..] {
            [] => {}
            [[b'#', ..], ..] => {}
            [spec, mount, fstype, options, ..] => entries.push(Entry {
                line,
                spec: unescape(spec),
                mount: unescape(mount).into(),
                fstype: unescape(fstype),
                options: options.split(|&byte| byte == b',').map(unescape).collect(),
            }),
            _ => return Err((line, fields.len())),
        }
    }
    Ok(entries)
}

/// Splits `LABEL=…`, `UUID=…`, `PARTLABEL=…` or `PARTUUID=…`.
pub(crate) fn tag(spec: &OsStr) -> Option<(&str, &str)> {
    let (tag, value) = spec.to_str()?.split_once('=')?;
    let is_known = ["LABEL", "UUID", "PARTLABEL", "PARTUUID"].contains(&tag);
    is_known.then(|| (tag, value.trim_matches('"')))
}

/// Returns the path of the device: the field itself, or the link that udev makes for a tag.
pub(crate) fn device_path(spec: &OsStr) -> Option<PathBuf> {
    if spec.as_bytes().starts_with(b"/dev/") {
        return Some(spec.into());
    }
    let (tag, value) = tag(spec)?;
    let name = encode_label(value);
    Some(format!("/dev/disk/by-{}/{name}", tag.to_lowercase()).into())
}

/// Encodes a label as udev does in the names of links: a space becomes `\x20`.
fn encode_label(label: &str) -> String {
    let encode = |letter: char| match letter {
        letter if letter.is_ascii_alphanumeric() || !letter.is_ascii() => letter.to_string(),
        '#' | '+' | '-' | '.' | ':' | '=' | '@' | '_' => letter.to_string(),
        other => format!("\\x{:02x}", u32::from(other)),
    };
    label.chars().map(encode).collect()
}

/// Resolves the octal escapes of fstab and mountinfo, such as `\040`. Other backslashes stay.
pub(crate) fn unescape(mut field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    while let [first, rest @ ..] = field {
        let (byte, rest) = match rest {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', rest @ ..] if *first == b'\\' => {
                ((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), rest)
            }
            _ => (*first, rest),
        };
        bytes.push(byte);
        field = rest;
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn only(text: &str) -> Entry {
        let mut entries = parse(text.as_bytes()).unwrap();
        assert_eq!(entries.len(), 1, "{text}");
        entries.remove(0)
    }

    #[test]
    fn the_line_of_pikvm_is_parsed() {
        let entry = only(
            "LABEL=PIPST  /var/lib/kvmd/pst  ext4  nodev,nosuid,noexec,ro,errors=remount-ro,X-kvmd.pst-user=kvmd-pst  0 2\n",
        );
        assert_eq!(entry.spec, "LABEL=PIPST");
        assert_eq!(entry.mount, Path::new("/var/lib/kvmd/pst"));
        assert_eq!(entry.fstype, "ext4");
        assert_eq!(entry.options.len(), 6);
        assert_eq!(entry.option("X-kvmd.pst-user").unwrap(), "kvmd-pst");
        assert_eq!(entry.option("ro").unwrap(), "");
        assert_eq!(entry.option("X-kvmd.pst-group"), None);
        assert_eq!(entry.option("X-kvmd.pst"), None, "a prefix is no option");
        assert!(entry.has_option_beginning("X-kvmd.pst-"));
        assert!(!entry.has_option_beginning("X-kvmd.otgmsd-"));
    }

    #[test]
    fn labels_are_encoded_as_udev_encodes_them() {
        let path =
            |spec: &str| device_path(OsStr::new(spec)).map(|path| path.display().to_string());
        assert_eq!(path("LABEL=PIPST").unwrap(), "/dev/disk/by-label/PIPST");
        assert_eq!(
            path("LABEL=\"my card/1\"").unwrap(),
            "/dev/disk/by-label/my\\x20card\\x2f1"
        );
        assert_eq!(path("/dev/mmcblk0p4").unwrap(), "/dev/mmcblk0p4");
        assert_eq!(path("tmpfs"), None);
        assert_eq!(path("ID=x"), None);
    }

    #[test]
    fn comments_and_blank_lines_are_skipped() {
        let text = b"# a b c d\n\n \t \n\t # indented\r\n/dev/a\t/a \t ext4  ro\r\n/dev/b /b btrfs rw 0\n/dev/#c /c xfs ro,x 0 0 more";
        let entries = parse(text).unwrap();
        let seen: Vec<_> = entries
            .iter()
            .map(|entry| {
                (
                    entry.line,
                    entry.spec.to_str().unwrap(),
                    entry.options.len(),
                )
            })
            .collect();
        assert_eq!(
            seen,
            [(5, "/dev/a", 1), (6, "/dev/b", 1), (7, "/dev/#c", 2)]
        );
        assert_eq!(entries[0].options, ["ro"], "no carriage return in it");
        assert_eq!(parse(b"").unwrap(), []);
    }

    #[test]
    fn escapes_are_resolved_to_bytes_in_every_field() {
        for (escaped, bytes) in [
            (r"a\040b", &b"a b"[..]),
            (r"\011\012\134\043", b"\t\n\\#"),
            (r"\377\200", b"\xff\x80"),
            (r"\\040", b"\\ "),
            (r"\134040", b"\\040"),
            (r"\04", b"\\04"),
            ("x040", b"x040"),
            (r"\048\x41\", b"\\048\\x41\\"),
            (r"\400\777", b"\\400\\777"),
            ("ä", "ä".as_bytes()),
        ] {
            let entry = only(&format!("s{escaped} /m{escaped} t{escaped} o,p{escaped}"));
            let with = |first: &[u8]| OsString::from_vec([first, bytes].concat());
            assert_eq!(entry.spec, with(b"s"));
            assert_eq!(entry.mount.as_os_str(), with(b"/m"));
            assert_eq!(entry.fstype, with(b"t"));
            assert_eq!(entry.options, [OsString::from("o"), with(b"p")]);
        }
        let comma = only(r"s /m t a=1\0542,b");
        assert_eq!(comma.option("a").unwrap(), "1,2", "split before unescaped");
    }

    #[test]
    fn fields_need_not_be_utf8() {
        let entries = parse(b"s\xff /m\xfe ext4 X-kvmd.pst-root=/m\xfe").unwrap();
        assert_eq!(entries[0].mount.as_os_str().as_bytes(), b"/m\xfe");
        let root = entries[0].option("X-kvmd.pst-root").unwrap();
        assert_eq!(root.as_bytes(), b"/m\xfe");
    }

    #[test]
    fn the_last_of_several_options_counts() {
        let entry = only("s /m t o=1,o=2");
        assert_eq!(entry.option("o").unwrap(), "2");
    }

    #[test]
    fn a_line_with_too_few_fields_is_named() {
        for (text, error) in [
            ("/dev/a", (1, 1)),
            ("# x\n\n/dev/a /a\n", (3, 2)),
            ("/dev/a /a ext4 ro 0 0\n/dev/b /b ext4", (2, 3)),
        ] {
            assert_eq!(parse(text.as_bytes()), Err(error), "{text}");
        }
    }

    #[test]
    fn options_about_access_times_are_recognized() {
        for (options, named) in [
            ("ro", false),
            ("ro,noatime", true),
            ("relatime", true),
            ("strictatime,ro", true),
            ("nodiratime", true),
            ("lazytime,nolazytime", false),
            ("xnoatime,noatime=1", false),
        ] {
            let entry = only(&format!("s /m t {options}"));
            assert_eq!(entry.names_atime(), named, "{options}");
        }
    }
}

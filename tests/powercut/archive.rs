//! Reads what `tar --format=posix` writes: the quickest way to get every file
//! out of a filesystem by a process of its own.

use std::collections::BTreeMap;

use crate::record::{Content, Entry};

const BLOCK: usize = 512;

/// How it is called, in a shell.
pub const TAR: &str = "tar --format=posix '--pax-option=delete=?time' --hard-dereference --xattrs '--xattrs-include=*' -cf -";

/// The files, symlinks and directories, by path without `./`.
pub fn read(mut archive: &[u8]) -> BTreeMap<String, Entry> {
    let mut entries = BTreeMap::new();
    let mut attributes = Vec::new();
    while let Some((header, rest)) = archive.split_at_checked(BLOCK) {
        let name = text(&header[..100]);
        if name.is_empty() {
            break;
        }
        let size = usize::from_str_radix(&text(&header[124..136]), 8).expect("a size");
        archive = &rest[size.next_multiple_of(BLOCK)..];
        let content = match header[156] {
            b'x' => {
                // What the next header has no room for: its extended attributes.
                attributes = vec![rest[..size].to_vec()];
                continue;
            }
            b'0' => Some(Content::File(rest[..size].into())),
            b'2' => Some(Content::Link(text(&header[157..257]))),
            _ => None,
        };
        let path = name.trim_start_matches("./").trim_end_matches('/');
        let entry = Entry {
            content,
            // Mode, owner and group.
            rights: header[100..124].to_vec(),
            attributes: std::mem::take(&mut attributes).concat(),
        };
        entries.insert(path.to_owned(), entry);
    }
    entries
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&field[..end.unwrap_or(field.len())]).into_owned()
}

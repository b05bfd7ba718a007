//! Reads what `tar --format=ustar` writes: the quickest way to get every file
//! out of a filesystem by a process of its own.

use std::collections::BTreeMap;

use crate::record::Content;

const BLOCK: usize = 512;

/// The files and symlinks, by path without `./`.
pub fn read(mut archive: &[u8]) -> BTreeMap<String, Content> {
    let mut files = BTreeMap::new();
    while let Some((header, rest)) = archive.split_at_checked(BLOCK) {
        let name = text(&header[..100]);
        if name.is_empty() {
            break;
        }
        let size = usize::from_str_radix(&text(&header[124..136]), 8).expect("a size");
        let content = match header[156] {
            b'0' => Some(Content::File(rest[..size].into())),
            b'2' => Some(Content::Link(text(&header[157..257]))),
            _ => None,
        };
        let path = name.trim_start_matches("./").to_owned();
        files.extend(content.map(|content| (path, content)));
        archive = &rest[size.next_multiple_of(BLOCK)..];
    }
    files
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&field[..end.unwrap_or(field.len())]).into_owned()
}

//! Escapes bytes from outside (commands, paths, names) for logs, status and errors: on one line,
//! without control or invisible characters. The escaping is reversible.

use std::fmt::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Displays printable UTF-8 as it is. Other characters become `\n`, `\x1b` or `\u{202e}`, bytes that
/// are not UTF-8 become `\xff`, and a backslash becomes `\\`.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(&'a [u8]);

pub fn escape<T: AsRef<[u8]> + ?Sized>(bytes: &T) -> Escaped<'_> {
    Escaped(bytes.as_ref())
}

pub(crate) fn escape_path(path: &Path) -> String {
    escape(path.as_os_str().as_bytes()).to_string()
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\\' => f.write_str("\\\\")?,
                    '\n' => f.write_str("\\n")?,
                    '\r' => f.write_str("\\r")?,
                    '\t' => f.write_str("\\t")?,
                    '\0'..='\x1f' | '\x7f' => write!(f, "\\x{:02x}", u32::from(c))?,
                    c if is_hidden(c) => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                    c => f.write_char(c)?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Whether a character beyond ASCII acts on a terminal, ends a line, changes the text direction, or
/// is invisible: C1 controls, separators, format characters and `Default_Ignorable_Code_Point`.
fn is_hidden(c: char) -> bool {
    matches!(c,
        '\u{80}'..='\u{9f}'           // C1: U+009B alone begins an escape sequence
        | '\u{ad}'                    // soft hyphen
        | '\u{34f}'                   // combining grapheme joiner
        | '\u{61c}'                   // bidi mark
        | '\u{115f}'..='\u{1160}'     // Hangul fillers
        | '\u{17b4}'..='\u{17b5}'     // Khmer vowels without a shape
        | '\u{180b}'..='\u{180f}'     // Mongolian selectors
        | '\u{200b}'..='\u{200f}'     // zero width, bidi marks
        | '\u{2028}'..='\u{202e}'     // line and paragraph separator, bidi
        | '\u{2060}'..='\u{206f}'     // joiners, invisible operators, bidi isolates
        | '\u{3164}'                  // Hangul filler
        | '\u{fe00}'..='\u{fe0f}'     // variation selectors
        | '\u{feff}'                  // byte order mark
        | '\u{ffa0}'                  // Hangul filler
        | '\u{fff0}'..='\u{fffb}'     // unassigned, annotations
        | '\u{1bca0}'..='\u{1bca3}'   // shorthand format
        | '\u{1d173}'..='\u{1d17a}'   // musical format
        | '\u{e0000}'..='\u{e0fff}'   // tags, more selectors
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(bytes: &[u8]) -> String {
        escape(bytes).to_string()
    }

    /// Reverses `escape`; panics on text that `escape` never writes.
    fn unescape(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('\\') {
            bytes.extend_from_slice(before.as_bytes());
            let (kind, after) = after.split_at(1);
            rest = after;
            match kind {
                "\\" => bytes.push(b'\\'),
                "n" => bytes.push(b'\n'),
                "r" => bytes.push(b'\r'),
                "t" => bytes.push(b'\t'),
                "x" => {
                    let (hex, after) = after.split_at(2);
                    bytes.push(u8::from_str_radix(hex, 16).unwrap());
                    rest = after;
                }
                "u" => {
                    let (hex, after) = after.strip_prefix('{').unwrap().split_once('}').unwrap();
                    let c = char::from_u32(u32::from_str_radix(hex, 16).unwrap()).unwrap();
                    bytes.extend_from_slice(c.to_string().as_bytes());
                    rest = after;
                }
                other => panic!("unknown escape {other:?} in {text:?}"),
            }
        }
        bytes.extend_from_slice(rest.as_bytes());
        bytes
    }

    #[test]
    fn ordinary_names_stay_as_they_are() {
        for name in [
            "",
            "sh -c 'echo \"$HOME\"' > /tmp/a b",
            "Überraschung.txt",
            "e\u{301}te\u{301}", // decomposed, as macOS writes it
            "日本語",
            "שלום",
            "🙂",
            "non\u{a0}breaking",
        ] {
            assert_eq!(shown(name.as_bytes()), name);
        }
    }

    #[test]
    fn hostile_names_become_harmless() {
        for (name, expected) in [
            (&b"a\nb\r\tc"[..], r"a\nb\r\tc"),
            (b"\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
            (b"\0\x7f", r"\x00\x7f"),
            (b"\\x1b \\", r"\\x1b \\"),
            (b"\xff\xfe", r"\xff\xfe"),
            (b"\x9b31m", r"\x9b31m"), // a C1 control as a lone byte,
            ("\u{9b}31m".as_bytes(), r"\u{9b}31m"), // and as a character
            (b"caf\xc3", r"caf\xc3"), // cut within a character
            (b"\xc0\xaf", r"\xc0\xaf"), // '/' as two bytes
            (b"\xed\xa0\x80", r"\xed\xa0\x80"), // a surrogate
            (b"\xf4\x90\x80\x80", r"\xf4\x90\x80\x80"), // past the last character
            ("gpj\u{202e}exe".as_bytes(), r"gpj\u{202e}exe"),
            ("a\u{2066}b\u{2069}".as_bytes(), r"a\u{2066}b\u{2069}"),
            ("a\u{200b}b\u{feff}".as_bytes(), r"a\u{200b}b\u{feff}"),
            (
                "a\u{2028}b\u{2029}\u{85}".as_bytes(),
                r"a\u{2028}b\u{2029}\u{85}",
            ),
            ("a\u{e0041}".as_bytes(), r"a\u{e0041}"),
        ] {
            assert_eq!(shown(name), expected);
        }
    }

    #[test]
    fn every_character_stays_on_one_line_and_is_reversible() {
        for c in '\0'..=char::MAX {
            let name = c.to_string();
            let text = shown(name.as_bytes());
            assert_eq!(unescape(&text), name.as_bytes());
            assert!(
                !text.chars().any(|c| c.is_control() || is_hidden(c)),
                "{c:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_reversible(bytes: Vec<u8>) {
            prop_assert_eq!(unescape(&shown(&bytes)), bytes);
        }

        #[test]
        fn bytes_that_resemble_escapes_are_reversible(bytes in r"[\\xun{}0-9a-f\x1b\u{202e}]{0,40}") {
            prop_assert_eq!(unescape(&shown(bytes.as_bytes())), bytes.as_bytes());
        }
    }
}

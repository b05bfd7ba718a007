//! Foreign bytes: shown harmless, and to be told from what is shown.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let shown = pst::escape::escape(bytes).to_string();
    assert!(!shown.chars().any(char::is_control), "{shown:?}");
    assert!(!shown.contains(['\u{2028}', '\u{2029}', '\u{202e}', '\u{feff}']));
    assert_eq!(back(&shown), bytes);
});

fn back(text: &str) -> Vec<u8> {
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
            other => panic!("unknown escape {other:?}"),
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

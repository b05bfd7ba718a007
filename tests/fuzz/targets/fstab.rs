//! fstab: what was understood and is written again is understood as the same.
#![no_main]

use std::os::unix::ffi::OsStrExt;

use libfuzzer_sys::fuzz_target;
use pst::fstab::{Entry, parse};

fuzz_target!(|text: &[u8]| {
    let lines = text.split(|&byte| byte == b'\n').count();
    match parse(text) {
        Ok(entries) => {
            assert!(entries.len() <= lines);
            let mut again = vec![b'\n'; entries.first().map_or(0, |entry| entry.line - 1)];
            for pair in entries.windows(2) {
                assert!(pair[0].line < pair[1].line);
                write(&pair[0], &mut again);
                again.resize(again.len() + pair[1].line - pair[0].line, b'\n');
            }
            if let Some(last) = entries.last() {
                write(last, &mut again);
            }
            // A field that was nothing but an escaped `#` or nothing at all stays what it is.
            assert_eq!(parse(&again), Ok(entries));
        }
        Err((line, fields)) => assert!((1..=lines).contains(&line) && (1..4).contains(&fields)),
    }
});

fn write(entry: &Entry, out: &mut Vec<u8>) {
    for field in [
        entry.spec.as_bytes(),
        entry.mount.as_os_str().as_bytes(),
        entry.fstype.as_bytes(),
    ] {
        field.iter().for_each(|byte| octal(*byte, out));
        out.push(b' ');
    }
    for (i, option) in entry.options.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        option.as_bytes().iter().for_each(|byte| octal(*byte, out));
    }
}

fn octal(byte: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("\\{byte:03o}").as_bytes());
}

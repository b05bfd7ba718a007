//! mountinfo: what was understood and is written again, as the kernel does, is
//! understood as the same.
#![no_main]

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use pst::storage::mountinfo::{Mount, parse};

fuzz_target!(|text: &[u8]| {
    let mounts = parse(text);
    assert!(mounts.len() <= text.split(|&byte| byte == b'\n').count());
    for mount in mounts {
        let mut line = Vec::new();
        write(&mount, &mut line);
        assert_eq!(parse(&line), [mount]);
    }
});

fn write(mount: &Mount, out: &mut Vec<u8>) {
    let (major, minor) = mount.device;
    out.extend_from_slice(format!("{} 1 {major}:{minor} ", mount.id).as_bytes());
    escaped(&mount.root, out);
    escaped(&mount.point, out);
    out.extend_from_slice(mount.flags.as_bytes());
    out.extend_from_slice(format!(" shared:1 - {} ", mount.fstype).as_bytes());
    escaped(&mount.source, out);
    out.extend_from_slice(mount.options.as_bytes());
}

fn escaped(path: &Path, out: &mut Vec<u8>) {
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => {
                out.extend_from_slice(format!("\\{byte:03o}").as_bytes());
            }
            _ => out.push(byte),
        }
    }
    out.push(b' ');
}

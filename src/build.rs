//! What the linker is told besides.

use std::env;
use std::fs;
use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    if !env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|libc| libc == "gnu") {
        return;
    }
    // 1,400 relocations in 1 KiB instead of 32; glibc 2.36 reads them. A linker that does not
    // know it warns and goes on.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    // GNU's linker and LLVM's know the rest; who chose another gets a larger program.
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let chosen = ["fuse-ld=", "ld-path=", "link-arg=-B", "mold"];
    let chosen = chosen.iter().any(|choice| flags.contains(choice));
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") && !chosen {
        leave_out_unwinding();
    }
}

/// Leaves out the tables that say how the stack is unwound, a tenth of the program. In a release
/// a panic aborts: its message has file and line, and without symbols a backtrace has no names.
fn leave_out_unwinding() {
    let sections = "SECTIONS { /DISCARD/ : { *(.eh_frame .gcc_except_table .gcc_except_table.*) } } \
                    INSERT AFTER .text;\n";
    let Ok(out) = env::var("OUT_DIR") else { return };
    let script = Path::new(&out).join("sections.ld");
    if fs::write(&script, sections).is_ok() {
        println!("cargo::rustc-link-arg-bins=-T{}", script.display());
    }
}

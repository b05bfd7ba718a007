//! `pst`: which applet is meant, and its exit code.

fn main() {}

//! What a client may send.
#![no_main]

mod wire;

libfuzzer_sys::fuzz_target!(|data: &[u8]| wire::check::<pst::wire::ClientMessage>(data));

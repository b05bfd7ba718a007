//! The config file: understood, or one line that says what is wrong.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use pst::config::Config;

fuzz_target!(|text: &str| {
    match Config::parse(text, Path::new("/etc/kvmd/pst.toml")) {
        Ok(config) => {
            assert!(config.socket.is_absolute() && config.socket.as_os_str().len() <= 107);
            assert!(config.socket_mode <= 0o777);
            assert!(config.storage.data.is_relative());
            assert!(config.limit > 0);
            assert!(config.kill_grace.as_secs() <= 3600);
            for path in [&config.storage.mount, &config.storage.root] {
                assert!(path.as_ref().is_none_or(|path| path.is_absolute()));
            }
        }
        Err(error) => {
            let line = error.to_string();
            assert!(line.starts_with("/etc/kvmd/pst.toml:"));
            assert!(!line.chars().any(char::is_control), "{line:?}");
        }
    }
});

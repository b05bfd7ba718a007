//! The config file.

use super::Options;
use super::finding::{Finding, Id};
use crate::config::Config;
use crate::storage::survey::escape_path;

/// The config, unless it cannot be understood.
pub fn look(options: &Options, findings: &mut Vec<Finding>) -> Option<Config> {
    let shown = escape_path(&options.config);
    match Config::load(&options.config, options.required) {
        Ok(mut config) => {
            let text = match options.config.exists() {
                true => shown,
                false => format!("{shown} is not there: the defaults hold"),
            };
            findings.push(Finding::ok(Id::Config, text));
            if let Some(socket) = &options.socket {
                config.socket.clone_from(socket);
            }
            Some(config)
        }
        Err(error) => {
            findings.push(Finding::error(
                Id::Config,
                error.to_string(),
                "mend the file: pst.toml(5) says what may stand in it; the rest of the chain depends on it and was not looked at",
            ));
            None
        }
    }
}

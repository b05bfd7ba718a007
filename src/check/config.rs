//! The config file.

use super::Options;
use super::finding::{Finding, Id};
use crate::config::Config;
use crate::escape::escape_path;

/// The config, unless it cannot be understood.
pub(super) fn look(options: &Options, findings: &mut Vec<Finding>) -> Option<Config> {
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
            let text = error.to_string();
            let advice = match text.contains("Permission denied") {
                true => {
                    "let everybody read it: there is no secret in it, and `pst run` needs it too"
                }
                false => {
                    "mend it: pst.toml(5) says what may stand in it; what depends on it was not looked at"
                }
            };
            findings.push(Finding::error(Id::Config, text, advice));
            None
        }
    }
}

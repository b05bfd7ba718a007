//! The config file.

use super::Options;
use super::finding::{Finding, Id};
use super::host::is_forbidden;
use crate::config::Config;
use crate::escape::escape_path;

/// Returns the config, unless it cannot be understood.
pub(super) fn check(options: &Options, findings: &mut Vec<Finding>) -> Option<Config> {
    let shown = escape_path(&options.config);
    match Config::load(&options.config, options.required) {
        Ok(mut config) => {
            findings.push(Id::Config.ok(match options.config.exists() {
                true => shown,
                false => format!("{shown} does not exist: the defaults apply"),
            }));
            if let Some(socket) = &options.socket {
                config.socket.clone_from(socket);
            }
            Some(config)
        }
        Err(problem) => {
            let advice = match is_forbidden(&options.config) {
                true => "make it readable for all: it holds no secret, and `pst run` needs it too",
                false => "fix it, see pst.toml(5); whatever depends on it was not checked",
            };
            findings.push(Id::Config.problem(&problem, advice));
            None
        }
    }
}

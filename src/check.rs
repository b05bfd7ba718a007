//! `pst check`: checks everything that a session needs, from fstab to the socket, and gives advice for
//! each fault. It opens no session and changes nothing.

mod access;
mod config;
mod daemon;
mod device;
mod filesystem;
mod finding;
mod host;
mod kernel;
mod kvmd;
mod mount;
mod path;
mod show;
mod units;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::problem::Problem;
use crate::sys::signal;
use crate::table::{Table, print};

use finding::{Finding, Level};
use host::Host;

#[derive(Debug)]
pub(crate) struct CheckOptions {
    pub config: PathBuf,
    /// The config file must exist.
    pub required: bool,
    /// Overrides the config file's socket.
    pub socket: Option<PathBuf>,
    pub json: bool,
}

/// Returns exit code 0 if all is well, 1 if there are warnings, and 2 if there are errors.
pub(crate) fn main(options: CheckOptions) -> Result<ExitCode, Problem> {
    signal::restore_mask(); // so that ^C ends this process
    let findings = check(&options, &Host::real());
    let shown = match options.json {
        true => show::json(&findings),
        false => show::text(&findings, Table::for_stdout()),
    };
    print(&shown)?; // `pst check | head` is not an error
    let worst = findings.iter().map(|finding| finding.level).max();
    Ok(ExitCode::from(match worst {
        Some(Level::Error) => 2,
        Some(Level::Warning) => 1,
        _ => 0,
    }))
}

/// Runs all checks, causes before effects. Leaves out a check if an earlier finding says that something
/// it needs is missing.
fn check(options: &CheckOptions, host: &Host) -> Vec<Finding> {
    let mut findings = kernel::check(host);
    let config = config::check(options, &mut findings);
    let mut mount_point = None;
    let mut data = None;
    if let Some(config) = &config {
        let (entry, location) = config::check_fstab(config, host, &mut findings);
        let location = location.as_ref();
        let found = location.and_then(|location| mount::check(location, host, &mut findings));
        let node = device::check(host, entry.as_ref(), found.as_ref(), &mut findings);
        if let Some(found) = &found {
            findings.extend(filesystem::check(host, found, node.as_deref()));
        }
        findings.extend(access::check(config, location, host));
        findings.extend(daemon::check(config, location, found.as_ref(), host));
        data = location.and_then(|location| kvmd::compare_data(config, location, host));
        mount_point = location.map(|location| location.mount.clone());
    }
    findings.extend(units::check(host, mount_point.as_deref()));
    findings.extend(kvmd::check(host));
    findings.extend(data);
    findings.push(path::check(host));
    findings
}

//! `pst check`: walks the whole chain from fstab to a session, and says of each link whether it
//! holds, and what to do if not. It only looks: it opens no session, writes nothing, and switches
//! nothing.

mod access;
mod card;
mod config;
mod daemon;
mod device;
mod filesystem;
mod finding;
mod fstab;
mod kernel;
mod mount;
mod path;
mod show;
mod sight;
mod units;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::sys::signal;

use finding::{Finding, Level};
use sight::Sight;

#[derive(Debug)]
pub(crate) struct Options {
    pub config: PathBuf,
    /// It was named by somebody, so it must be there.
    pub required: bool,
    /// The socket, if something else than the config file says it.
    pub socket: Option<PathBuf>,
    pub json: bool,
}

/// Exit code 0 when all is well, 1 when there are warnings, 2 when there are errors.
pub(crate) fn main(options: Options) -> ExitCode {
    signal::restore_mask(); // ^C ends this as it ends any program
    let findings = look(&options, &Sight::real());
    let shown = match options.json {
        true => show::json(&findings),
        false => show::text(&findings, show::Style::of_stdout()),
    };
    let mut stdout = io::stdout();
    let written = stdout.write_all(shown.as_bytes());
    if let Err(error) = written.and_then(|()| stdout.flush()) {
        // Who reads no further, as `head`, has seen enough.
        if error.kind() != io::ErrorKind::BrokenPipe {
            let _ = writeln!(io::stderr(), "pst: cannot write: {error}");
            return ExitCode::from(2);
        }
    }
    let worst = findings.iter().map(|finding| finding.level).max();
    ExitCode::from(match worst {
        Some(Level::Error) => 2,
        Some(Level::Warning) => 1,
        _ => 0,
    })
}

/// Everything, in the order in which things depend on each other. What cannot be looked at because
/// something before it is missing is left out: that was said there.
fn look(options: &Options, sight: &Sight) -> Vec<Finding> {
    let mut findings = kernel::look(sight);
    let config = config::look(options, &mut findings);
    let mut mount_point = None;
    if let Some(config) = &config {
        let (entry, place) = fstab::look(config, sight, &mut findings);
        let found = place
            .as_ref()
            .and_then(|place| mount::look(place, sight, &mut findings));
        let device = device::look(sight, entry.as_ref(), found.as_ref(), &mut findings);
        if let Some(device) = &device {
            findings.extend(card::look(device));
        }
        if let Some(found) = &found {
            let device = device.as_ref().map(|device| device.node.as_path());
            findings.extend(filesystem::look(sight, found, device));
        }
        findings.extend(access::look(config, place.as_ref(), sight));
        findings.extend(daemon::look(config, place.as_ref(), found.as_ref(), sight));
        mount_point = place.map(|place| place.mount);
    }
    findings.extend(units::look(sight, mount_point.as_deref()));
    findings.extend(path::look(sight));
    findings
}

//! `pst daemon`: everything between the socket and the storage. One executor thread decides and
//! talks; what blocks is done by the worker's thread, and the mounts are watched by a third.

mod announce;
pub mod arbiter;
mod changes;
mod connection;
mod core;
#[cfg(feature = "kvmd-api")]
mod kvmd;
mod ledger;
mod listener;
mod need;
mod seat;
mod seating;
mod server;
mod session;
mod shown;
mod telling;
mod timers;
mod times;
mod watcher;
mod worker;

use std::cell::Cell;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use async_io::Async;
use log::LevelFilter;
use smol::LocalExecutor;
use smol::channel::{Receiver, unbounded};

use crate::config::Config;
use crate::logging;
use crate::storage::Storage;
use crate::storage::roots::Owner;
use crate::sys::fanotify::Group;
use crate::sys::signal::Signals;
use crate::sys::{own, user};
use crate::systemd;

use self::arbiter::Input;
use self::core::Core;
#[cfg(feature = "kvmd-api")]
pub use self::kvmd::{events, http}; // for the fuzzers
pub use self::ledger::REMEMBERED;
use self::listener::Listener;
use self::timers::Timers;
pub use self::times::FORGOTTEN;
use self::times::{ERROR_LOOKS, EVENTS_GATHER};

/// What reaches the daemon's thread from the others.
#[derive(Debug)]
pub enum Event {
    /// The worker is done.
    Done(Box<worker::Report>),
    /// Something was mounted, unmounted or changed.
    MountsChanged,
}

/// The applet.
pub fn main(config: Config, config_path: PathBuf, log_level: Option<LevelFilter>) -> ExitCode {
    logging::init(log_level);
    log::debug!("configured by {}", config_path.display());
    match run(&config) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(text) => {
            log::error!("{text}");
            ExitCode::FAILURE
        }
    }
}

/// True if the storage is left as it should be.
fn run(config: &Config) -> Result<bool, String> {
    let place = config.place().map_err(|error| error.to_string())?;
    let owner = Owner::of(&place)?;
    let access = access_group(&config.group)?;
    own::keep_no_large_memory();
    if let Err(error) = own::raise_descriptor_limit() {
        log::warn!("cannot raise the limit of open files: {error}");
    }
    let listener = Listener::open(config, access)?;
    let group = match Group::new() {
        Ok(group) => Some(group),
        Err(error) => {
            log::info!(
                "no events of the filesystem ({error}): what happens to it shows a second later"
            );
            None
        }
    };
    let events_of = group.as_ref().map(Group::try_clone).transpose();
    let events_of = events_of.map_err(|error| format!("cannot watch the filesystem: {error}"))?;
    let mut storage = Storage::new(place.clone(), owner, config.socket.clone(), group);
    storage.claim()?;
    let start = Instant::now();
    let (sender, events) = unbounded();
    watcher::start(sender.clone()).map_err(|error| format!("cannot watch the mounts: {error}"))?;
    let tasks =
        worker::start(storage, sender).map_err(|e| format!("cannot start a thread: {e}"))?;
    let timers = Timers::new().map_err(|error| format!("cannot make a timer: {error}"))?;
    let manager = systemd::Manager::new().unwrap_or_else(|error| {
        log::warn!("cannot tell the service manager anything: {error}");
        systemd::Manager::default()
    });
    let core = Core::new(config, &place, access, start, timers, tasks, manager);
    async_io::block_on(serve(core, listener, events, events_of))
}

fn access_group(name: &str) -> Result<u32, String> {
    let gid = user::gid_by_name(name)
        .map_err(|error| format!("cannot look up the access group '{name}': {error}"))?;
    gid.ok_or_else(|| {
        format!(
            "there is no access group '{name}': make it (`groupadd --system {name}`), \
             or name another as `group` in the config file"
        )
    })
}

async fn serve(
    core: Rc<Core>,
    listener: Listener,
    events: Receiver<Event>,
    group: Option<Group>,
) -> Result<bool, String> {
    let executor = Rc::new(LocalExecutor::new());
    let signals = Signals::new([libc::SIGTERM, libc::SIGINT, libc::SIGHUP])
        .and_then(Async::new)
        .map_err(|error| format!("cannot receive signals: {error}"))?;
    executor.spawn(take_events(core.clone(), events)).detach();
    executor.spawn(take_signals(core.clone(), signals)).detach();
    executor.spawn(run_timers(core.clone())).detach();
    executor.spawn(core.clone().alarm()).detach();
    if let Some(group) = group {
        let group = Async::new_nonblocking(group)
            .map_err(|error| format!("cannot watch the filesystem: {error}"))?;
        executor
            .spawn(take_filesystem_events(
                core.clone(),
                executor.clone(),
                group,
            ))
            .detach();
    }
    if let Some(interval) = systemd::watchdog_interval() {
        executor
            .spawn(feed_watchdog(core.clone(), interval))
            .detach();
    }
    let Listener { socket, name } = listener;
    let server = server::accept(core.clone(), executor.clone(), socket, name.is_none());
    executor.spawn(server).detach();
    let clean = executor.run(core.exit()).await;
    drop(name);
    Ok(clean)
}

async fn take_events(core: Rc<Core>, events: Receiver<Event>) {
    while let Ok(event) = events.recv().await {
        match event {
            Event::Done(report) => core.done(*report),
            Event::MountsChanged => core.input(Input::Disturbed),
        }
    }
}

/// Without it nothing would be waited for in time, an orderly end neither: the daemon ends as it
/// is, and is started anew.
async fn run_timers(core: Rc<Core>) {
    if let Err(error) = core.timers.clone().run().await {
        log::error!("cannot wait for a timer: {error}");
        std::process::exit(1);
    }
}

async fn take_signals(core: Rc<Core>, signals: Async<Signals>) {
    while signals.readable().await.is_ok() {
        while let Ok(Some(received)) = signals.get_ref().next() {
            log::info!("stopping on signal {}", received.signal);
            core.stop();
        }
    }
}

async fn take_filesystem_events(
    core: Rc<Core>,
    executor: Rc<LocalExecutor<'static>>,
    group: Async<Group>,
) {
    let looking = Rc::new(Cell::new(false));
    while group.readable().await.is_ok() {
        match group.get_ref().take() {
            Ok(events) => {
                if events.error && !looking.replace(true) {
                    executor
                        .spawn(look_repeatedly(core.clone(), looking.clone()))
                        .detach();
                }
                if events.release {
                    core.input(Input::Released);
                    core.timers.after(EVENTS_GATHER).await;
                }
            }
            Err(error) => {
                log::error!("cannot read the filesystem's events: {error}");
                return;
            }
        }
    }
}

/// ext4 tells of an error just before it acts on it: one look would often come too early.
async fn look_repeatedly(core: Rc<Core>, looking: Rc<Cell<bool>>) {
    core.input(Input::Disturbed);
    for wait in ERROR_LOOKS {
        core.timers.after(wait).await;
        core.input(Input::Disturbed);
    }
    looking.set(false);
}

async fn feed_watchdog(core: Rc<Core>, interval: Duration) {
    loop {
        core.timers.after(interval).await;
        core.tell_manager("WATCHDOG=1");
    }
}

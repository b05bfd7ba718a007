//! `pst daemon`: everything between the socket and the storage. One executor thread decides and
//! talks; what blocks is done by the worker's thread, and the mounts are watched by a third.

mod arbiter;
mod client;
mod connection;
mod context;
mod controller;
mod handle;
mod history;
#[cfg(feature = "kvmd-api")]
mod kvmd;
mod listener;
mod mounts_monitor;
mod native;
mod server;
mod settings;
mod space;
mod status;
mod timeouts;
mod timers;
mod worker;

use std::cell::Cell;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use async_io::Async;
use log::LevelFilter;
use smol::LocalExecutor;
use smol::channel::{Receiver, Sender, bounded, unbounded};

use crate::config::{Config, StorageLocation};
use crate::logging;
use crate::storage::Storage;
use crate::storage::directories::Owner;
use crate::sys::fanotify::Group;
use crate::sys::signal::Signals;
use crate::sys::{current, user};
use crate::systemd;

use self::context::Context;
use self::controller::Controller;
use self::handle::{Handle, Request};
pub(crate) use self::history::REMEMBERED;
#[cfg(feature = "kvmd-api")]
pub use self::kvmd::{events, http}; // for the fuzzers
use self::listener::Listener;
use self::settings::Settings;
pub(crate) use self::timeouts::FORGOTTEN;
use self::timeouts::{ERROR_LOOKS, EVENTS_GATHER};
use self::timers::Timers;

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
    current::keep_no_large_memory();
    if let Err(error) = current::raise_descriptor_limit() {
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
    let (sender, requests) = unbounded();
    let (to_controller, controller) = (sender.clone(), sender.clone());
    let disturbed = move || controller.try_send(Request::Recheck).is_ok();
    let done = move |report| {
        to_controller
            .try_send(Request::Done(Box::new(report)))
            .is_ok()
    };
    mounts_monitor::start(disturbed)
        .map_err(|error| format!("cannot watch the mounts: {error}"))?;
    let jobs =
        worker::start(storage, done).map_err(|error| format!("cannot start a thread: {error}"))?;
    let timers = Timers::new().map_err(|error| format!("cannot make a timer: {error}"))?;
    let manager = systemd::Manager::new().unwrap_or_else(|error| {
        log::warn!("cannot tell the service manager anything: {error}");
        systemd::Manager::default()
    });
    let settings = Rc::new(settings(config, &place, access));
    let (starting, started) = bounded(1);
    let controller = Controller::new(
        settings.clone(),
        timers.clone(),
        jobs,
        manager,
        start,
        starting,
    );
    let (runs, running) = bounded(1);
    let context = Context {
        settings,
        controller: Handle(sender),
        timers,
        started,
        running,
    };
    async_io::block_on(serve(
        controller, requests, context, runs, listener, events_of,
    ))
}

fn settings(config: &Config, place: &StorageLocation, access: u32) -> Settings {
    let bytes = |path: PathBuf| {
        let path: PathBuf = path.components().collect(); // no slash at the end
        path.as_os_str().as_bytes().to_vec()
    };
    Settings {
        mount: bytes(place.mount.clone()),
        data: bytes(place.root.join(&place.data)),
        kill_grace: config.session.kill_grace,
        limit: config.session.limit,
        access: (access, config.group.clone()),
        #[cfg(feature = "kvmd-api")]
        api_path: {
            let path = bytes(place.root.join(&config.kvmd_api.path));
            String::from_utf8_lossy(&path).into_owned() // JSON has no other text
        },
    }
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
    controller: Controller,
    requests: Receiver<Request>,
    context: Context,
    runs: Sender<()>,
    listener: Listener,
    group: Option<Group>,
) -> Result<bool, String> {
    let executor = Rc::new(LocalExecutor::new());
    let signals = Signals::new([libc::SIGTERM, libc::SIGINT, libc::SIGHUP])
        .and_then(Async::new)
        .map_err(|error| format!("cannot receive signals: {error}"))?;
    let (handle, timers) = (context.controller.clone(), context.timers.clone());
    let context = Rc::new(context);
    executor
        .spawn(take_signals(handle.clone(), signals, runs))
        .detach();
    executor.spawn(run_timers(timers.clone())).detach();
    if let Some(group) = group {
        let group = Async::new_nonblocking(group)
            .map_err(|error| format!("cannot watch the filesystem: {error}"))?;
        let task = take_filesystem_events(handle, timers.clone(), executor.clone(), group);
        executor.spawn(task).detach();
    }
    if let Some(interval) = systemd::watchdog_interval() {
        executor
            .spawn(feed_watchdog(context.clone(), interval))
            .detach();
    }
    let Listener { socket, name } = listener;
    let server = server::accept(context, executor.clone(), socket, name.is_none());
    executor.spawn(server).detach();
    let clean = executor.run(controller.run(requests)).await;
    drop(name);
    Ok(clean)
}

/// Without it nothing would be waited for in time, an orderly end neither: the daemon ends as it
/// is, and is started anew.
async fn run_timers(timers: Rc<Timers>) {
    if let Err(error) = timers.run().await {
        log::error!("cannot wait for a timer: {error}");
        std::process::exit(1);
    }
}

async fn take_signals(controller: Handle, signals: Async<Signals>, runs: Sender<()>) {
    while signals.readable().await.is_ok() {
        while let Ok(Some(received)) = signals.get_ref().next() {
            log::info!("stopping on signal {}", received.signal);
            runs.close();
            controller.tell(Request::Stop);
        }
    }
}

async fn take_filesystem_events(
    controller: Handle,
    timers: Rc<Timers>,
    executor: Rc<LocalExecutor<'static>>,
    group: Async<Group>,
) {
    let looking = Rc::new(Cell::new(false));
    while group.readable().await.is_ok() {
        match group.get_ref().take() {
            Ok(events) => {
                if events.error && !looking.replace(true) {
                    let task = look_repeatedly(controller.clone(), timers.clone(), looking.clone());
                    executor.spawn(task).detach();
                }
                if events.release {
                    controller.tell(Request::WriterClosed);
                    timers.after(EVENTS_GATHER).await;
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
async fn look_repeatedly(controller: Handle, timers: Rc<Timers>, looking: Rc<Cell<bool>>) {
    controller.tell(Request::Recheck);
    for wait in ERROR_LOOKS {
        timers.after(wait).await;
        controller.tell(Request::Recheck);
    }
    looking.set(false);
}

async fn feed_watchdog(context: Rc<Context>, interval: Duration) {
    loop {
        context.timers.after(interval).await;
        context.controller.tell(Request::Watchdog);
    }
}

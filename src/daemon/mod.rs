//! `pst daemon`: everything between the socket and the storage. One thread runs all tasks: the controller, which owns
//! the state, and the connections. The worker thread does what blocks, and another one watches the mounts.

mod admission;
mod arbiter;
mod connection;
mod context;
mod controller;
mod handle;
mod history;
#[cfg(feature = "kvmd-api")]
mod kvmd;
mod listener;
mod log;
mod mounts_monitor;
mod native;
mod server;
mod status;
mod timeouts;
mod worker;

use std::future::pending;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ::log::LevelFilter;
use async_io::{Async, Timer};
use smol::LocalExecutor;
use smol::channel::{Receiver, Sender, bounded, unbounded};
use smol::future::or;

use crate::config::Config;
use crate::logging;
use crate::problem::Problem;
use crate::storage::Storage;
use crate::storage::directories::Owner;
use crate::sys::current;
use crate::sys::fanotify::Group;
use crate::sys::signal::Signals;
use crate::systemd::{self, ServiceManager};

use self::context::{Context, Settings};
use self::controller::Controller;
use self::handle::{Handle, Request};
#[cfg(feature = "kvmd-api")]
pub use self::kvmd::{events, http}; // for the fuzzers
use self::listener::Listener;
use self::server::Server;
use self::timeouts::{ERROR_INSPECTIONS, EVENTS_GATHER};

pub(crate) fn main(
    config: Config,
    config_path: PathBuf,
    log_level: Option<LevelFilter>,
) -> ExitCode {
    logging::init(log_level);
    ::log::debug!("configured by {}", config_path.display());
    match run(&config) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            ::log::error!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether the storage is left as it should be.
fn run(config: &Config) -> Result<bool, Problem> {
    let location = config.storage_location()?;
    let owner = Owner::of(&location)?;
    let access_gid = config.access_gid()?;
    if let Err(error) = current::raise_descriptor_limit() {
        ::log::warn!("cannot raise the limit of open files: {error}");
    }
    let listener = Listener::open(config, access_gid)?;
    let group = filesystem_events();
    let events = group.as_ref().map(Group::try_clone).transpose();
    let events = events.map_err(|error| Problem::io("cannot watch the filesystem", &error))?;
    let settings = Rc::new(Settings::new(config, &location, access_gid));
    let mut storage = Storage::new(location, owner, config.socket.clone(), group);
    storage.claim()?;

    let (sender, requests) = unbounded();
    let handle = Handle(sender);
    let jobs = start_threads(storage, &handle)?;
    let manager = ServiceManager::start().unwrap_or_else(|error| {
        ::log::warn!("cannot tell the service manager anything: {error}");
        ServiceManager::default()
    });
    let (starting, started) = bounded(1);
    let controller = Controller::new(settings.clone(), jobs, manager, starting);
    let (runs, running) = bounded(1);
    let context = Context {
        settings,
        controller: handle,
        started,
        running,
    };
    async_io::block_on(serve(controller, requests, context, runs, listener, events))
}

/// Without these events, the inspection each second notices errors later.
fn filesystem_events() -> Option<Group> {
    let group = Group::new();
    if let Err(error) = &group {
        ::log::info!("no events of the filesystem ({error}): errors are noticed a second later");
    }
    group.ok()
}

fn start_threads(
    storage: Storage,
    handle: &Handle,
) -> Result<std::sync::mpsc::Sender<arbiter::Job>, Problem> {
    let (controller, done) = (handle.clone(), handle.clone());
    mounts_monitor::start(move || controller.0.try_send(Request::Recheck).is_ok())
        .map_err(|error| Problem::io("cannot watch the mounts", &error))?;
    worker::start(storage, move |report| {
        done.0.try_send(Request::Done(Box::new(report))).is_ok()
    })
    .map_err(|error| Problem::io("cannot start a thread", &error))
}

async fn serve(
    controller: Controller,
    requests: Receiver<Request>,
    context: Context,
    runs: Sender<()>,
    listener: Listener,
    group: Option<Group>,
) -> Result<bool, Problem> {
    let executor = Rc::new(LocalExecutor::new());
    let signals = Signals::new([libc::SIGTERM, libc::SIGINT, libc::SIGHUP])
        .and_then(Async::new)
        .map_err(|error| Problem::io("cannot receive signals", &error))?;
    let handle = context.controller.clone();
    executor
        .spawn(stop_on_signal(handle.clone(), signals, runs))
        .detach();
    if let Some(group) = group {
        let group = Async::new_nonblocking(group)
            .map_err(|error| Problem::io("cannot watch the filesystem", &error))?;
        executor
            .spawn(watch_filesystem(handle.clone(), group))
            .detach();
    }
    if let Some(interval) = systemd::watchdog_interval() {
        executor.spawn(feed_watchdog(handle, interval)).detach();
    }
    let Listener { socket, name } = listener;
    let server = Server::new(Rc::new(context), executor.clone());
    executor.spawn(server.run(socket, name.is_none())).detach();
    let clean = executor.run(controller.run(requests)).await;
    drop(name);
    Ok(clean)
}

async fn stop_on_signal(controller: Handle, signals: Async<Signals>, runs: Sender<()>) {
    while signals.readable().await.is_ok() {
        while let Some(received) = signals.get_ref().next() {
            ::log::info!("stopping on signal {}", received.signal);
            runs.close();
            controller.send(Request::Stop);
        }
    }
}

/// Passes the filesystem's events on. ext4 reports an error just before it acts on it, so more inspections follow.
async fn watch_filesystem(controller: Handle, group: Async<Group>) {
    let mut pauses = ERROR_INSPECTIONS[..0].iter();
    let mut next_inspection: Option<Instant> = None;
    loop {
        let inspection = async {
            match next_inspection {
                Some(at) => Timer::at(at).await,
                None => pending().await,
            };
            Ok(true)
        };
        let event = async { group.readable().await.map(|()| false) };
        match or(inspection, event).await {
            Ok(true) => {
                controller.send(Request::Recheck);
                next_inspection = pauses.next().map(|pause| Instant::now() + *pause);
            }
            Ok(false) => match group.get_ref().take() {
                Ok(events) => {
                    if events.error && next_inspection.is_none() {
                        pauses = ERROR_INSPECTIONS.iter();
                        next_inspection = Some(Instant::now());
                    }
                    if events.release {
                        controller.send(Request::WriterClosed);
                        Timer::after(EVENTS_GATHER).await;
                    }
                }
                Err(error) => {
                    return ::log::error!("cannot read the filesystem's events: {error}");
                }
            },
            Err(error) => return ::log::error!("cannot wait for the filesystem's events: {error}"),
        }
    }
}

async fn feed_watchdog(controller: Handle, interval: Duration) {
    loop {
        Timer::after(interval).await;
        controller.send(Request::Watchdog);
    }
}

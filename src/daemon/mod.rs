//! `pst daemon`: serves the socket and manages the storage. One thread runs all tasks: the controller, which owns the
//! state, and the connections. The worker thread makes the calls that may block, another closes sockets with unread
//! data, and one watches the mounts.

mod admission;
mod arbiter;
mod closer;
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
mod timeouts;
mod worker;

use std::io;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use ::log::LevelFilter;
use async_io::{Async, Timer};
use smol::channel::{bounded, unbounded};
use smol::{LocalExecutor, Task};

use crate::config::Config;
use crate::logging;
use crate::problem::Problem;
use crate::storage::Storage;
use crate::storage::directories::Owner;
use crate::sys::current;
use crate::sys::fanotify::Group;
use crate::sys::signal::Signals;
use crate::systemd::{self, ServiceManager};

use self::closer::Closer;
use self::context::Context;
use self::controller::Controller;
use self::handle::{Handle, Request};
#[cfg(feature = "kvmd-api")]
pub use self::kvmd::{events, http}; // for the fuzzers
use self::listener::Listener;
use self::server::Server;
use self::timeouts::{ERROR_INSPECTIONS, EVENTS_GATHER};

pub(crate) fn main(config: Config, log_level: Option<LevelFilter>) -> Result<ExitCode, Problem> {
    let log = logging::init_with_thread(log_level)
        .map_err(|error| Problem::io("cannot start a thread", &error))?;
    let clean = run(config).unwrap_or_else(|problem| {
        ::log::error!("{problem}");
        false
    });
    log.wait_until_written();
    Ok(ExitCode::from(u8::from(!clean)))
}

/// Starts the threads and the tasks. Returns whether the storage is read-only or absent at the end.
fn run(config: Config) -> Result<bool, Problem> {
    let location = config.storage_location()?;
    if let Some(warning) = config.extra_entries() {
        ::log::warn!("{warning}");
    }
    let owner = Owner::of(&location)?;
    let access_gid = config.access_gid()?;
    if let Err(error) = current::raise_descriptor_limit() {
        ::log::warn!("cannot raise the limit of open files: {error}");
    }
    current::return_large_blocks();
    let Listener { socket, name } = Listener::open(&config, access_gid)?;
    let (group, events) = filesystem_events().unzip();
    let (sender, requests) = unbounded();
    let handle = Handle(sender);
    let context = Context::new(
        config,
        &location,
        access_gid,
        handle.clone(),
        name.is_none(),
    );
    let context = Rc::new(context);
    let mut storage = Storage::new(location, owner, context.config.socket.clone(), group);
    storage.claim()?;

    mounts_monitor::start(handle.clone())
        .map_err(|error| Problem::io("cannot watch the mounts", &error))?;
    let jobs = worker::start(storage, handle.clone())
        .map_err(|error| Problem::io("cannot start a thread", &error))?;
    let closer = Closer::start().map_err(|error| Problem::io("cannot start a thread", &error))?;
    let signals = Signals::new([libc::SIGTERM, libc::SIGINT, libc::SIGHUP])
        .and_then(Async::new)
        .map_err(|error| Problem::io("cannot receive signals", &error))?;
    let (starting, started) = bounded(1);
    let manager = ServiceManager::start();
    let controller = Controller::new(context.clone(), jobs, manager, starting);

    let executor = Rc::new(LocalExecutor::new());
    let server = Server::new(context, executor.clone(), closer);
    let accepting = executor.spawn(server.run(socket, started));
    let accepting = match name {
        None => Some(accepting),
        Some(_) => {
            accepting.detach();
            None
        }
    };
    let stop = stop_on_signal(handle.clone(), signals, accepting);
    executor.spawn(stop).detach();
    if let Some(events) = events {
        executor
            .spawn(watch_filesystem(handle.clone(), events))
            .detach();
    }
    if let Some(interval) = systemd::watchdog_interval() {
        executor.spawn(feed_watchdog(handle, interval)).detach();
    }
    let clean = async_io::block_on(executor.run(controller.run(requests)));
    drop(name);
    // The kernel closes the sockets: a close that may block does not block an exiting process.
    std::mem::forget(executor);
    Ok(clean)
}

/// Returns a group for the filesystem's events, and a second descriptor of it. Without events, errors are noticed by the
/// inspection each second.
fn filesystem_events() -> Option<(Group, Group)> {
    let group = Group::new().and_then(|group| Ok((group.try_clone()?, group)));
    if let Err(error) = &group {
        ::log::info!("no events of the filesystem ({error}): errors are noticed a second later");
    }
    group.ok()
}

/// Stops the daemon on a signal. `accepting` is the server's task, if the service manager keeps the socket. Dropping it
/// leaves clients that connect during the stop to the next daemon.
async fn stop_on_signal(
    controller: Handle,
    signals: Async<Signals>,
    mut accepting: Option<Task<()>>,
) {
    while signals.readable().await.is_ok() {
        while let Some(received) = signals.get_ref().next() {
            ::log::info!("stopping on signal {}", received.signal);
            drop(accepting.take());
            controller.send(Request::Stop);
        }
    }
}

async fn watch_filesystem(controller: Handle, events: Group) {
    if let Err(error) = pass_on_events(&controller, events).await {
        ::log::error!("cannot watch the filesystem: {error}");
    }
}

async fn pass_on_events(controller: &Handle, group: Group) -> io::Result<()> {
    let group = Async::new_nonblocking(group)?;
    loop {
        group.readable().await?;
        let events = group.get_ref().take()?;
        if events.release {
            controller.send(Request::WriterClosed);
        }
        if events.error {
            controller.send(Request::Recheck);
            // ext4 reports an error before it acts on the error, so inspect again a little later.
            for pause in ERROR_INSPECTIONS {
                Timer::after(pause).await;
                controller.send(Request::Recheck);
            }
        }
        Timer::after(EVENTS_GATHER).await;
    }
}

async fn feed_watchdog(controller: Handle, interval: Duration) {
    loop {
        Timer::after(interval).await;
        controller.send(Request::Watchdog);
    }
}

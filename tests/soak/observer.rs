//! Looks on from outside the whole time: P2.

use std::fs;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;

use crate::world::{Epoch, Process, World, count};

const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Looks until all is over.
pub fn observe(world: &World) {
    while !world.over.load(Ordering::SeqCst) {
        let epoch = world.epoch();
        let working = working(world, epoch);
        let writable = world.is_writable();
        let proven = working.iter().filter(|(_, command)| command.is_alive());
        let proven: Vec<u64> = proven.map(|(id, _)| *id).collect();
        // The daemon was the same, and the commands lived, before and after the look.
        if epoch.is_served() && world.epoch() == epoch && !proven.is_empty() {
            count(&world.counts.seen_in_use);
            if writable != Some(true) {
                world.violation(format!("P2: read-only during the sessions {proven:?}"));
            }
        }
        sleep(LOOK_EVERY);
    }
}

/// The sessions that this epoch's daemon granted, and their living commands.
fn working(world: &World, epoch: Epoch) -> Vec<(u64, Process)> {
    let mut sessions = world.sessions.lock().expect("lock");
    let of_epoch = sessions.iter_mut().filter(|(_, live)| live.epoch == epoch);
    let with_command = of_epoch.filter_map(|(id, live)| {
        if live.command.is_none() {
            let text = fs::read_to_string(world.reports.join(format!("{id}.pid"))).ok()?;
            live.command = Process::of(text.strip_suffix('\n')?.parse().ok()?);
        }
        live.command
            .filter(|command| command.is_alive())
            .map(|command| (*id, command))
    });
    with_command.collect()
}

//! The daemon's deadlines, by async-io's timers.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

pub(super) type Sleep = async_io::Timer;

#[derive(Debug)]
pub(super) struct Timers;

impl Timers {
    pub(super) fn new() -> io::Result<Rc<Timers>> {
        Ok(Rc::new(Timers))
    }
    pub(super) fn at(&self, time: Instant) -> Sleep {
        async_io::Timer::at(time)
    }
    pub(super) fn after(&self, time: Duration) -> Sleep {
        async_io::Timer::after(time)
    }
    pub(super) async fn run(self: Rc<Timers>) -> io::Result<()> {
        std::future::pending().await
    }
}

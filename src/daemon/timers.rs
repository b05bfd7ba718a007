//! The daemon's deadlines, by async-io's timers.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

pub type Sleep = async_io::Timer;

/// See the module's text.
#[derive(Debug)]
pub struct Timers;

impl Timers {
    /// For deadlines.
    pub fn new() -> io::Result<Rc<Timers>> {
        Ok(Rc::new(Timers))
    }
    /// Ends at that time.
    pub fn at(&self, time: Instant) -> Sleep {
        async_io::Timer::at(time)
    }
    /// Ends after that time.
    pub fn after(&self, time: Duration) -> Sleep {
        async_io::Timer::after(time)
    }
    /// Nothing.
    pub async fn run(self: Rc<Timers>) -> io::Result<()> {
        std::future::pending().await
    }
}

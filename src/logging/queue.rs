//! The queue of the daemon's log lines, and the thread that writes them to stderr. A write may block for ever: the
//! reader can be a paused pager or a stalled journal. Only this thread then waits.

use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// While more bytes than this are queued, lines are dropped. This is the log of some hundred sessions.
const QUEUE_MAX: usize = 256 << 10;
/// The daemon waits this long at its end until the last lines are written.
const LAST_LINES: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Default)]
pub(crate) struct LogQueue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queued: Mutex<Queued>,
    /// Signalled at each change of `queued`.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queued {
    lines: Vec<u8>,
    /// The number of lines that were dropped after these.
    dropped: u64,
    /// The thread is writing earlier lines.
    writing: bool,
}

impl LogQueue {
    /// Starts the thread. It writes `notice` after lines that are missing; its argument is their number.
    pub(super) fn start(notice: impl Fn(u64) -> String + Send + 'static) -> io::Result<LogQueue> {
        let queue = LogQueue::default();
        let lines = queue.clone();
        let write = move || lines.write_to(&mut io::stderr(), notice);
        thread::Builder::new().name("log".into()).spawn(write)?;
        Ok(queue)
    }

    /// Adds a line, or drops it if the queue is full. Never blocks.
    pub(super) fn add(&self, line: &[u8]) {
        let mut queued = self.lock();
        if queued.dropped > 0 || queued.lines.len() > QUEUE_MAX {
            queued.dropped += 1;
        } else {
            queued.lines.extend_from_slice(line);
        }
        self.0.changed.notify_all();
    }

    /// Waits until all lines are written, but not longer than [`LAST_LINES`].
    pub(crate) fn wait_until_written(&self) {
        let queued = self.lock();
        let is_left = |queued: &mut Queued| queued.writing || !queued.lines.is_empty();
        let _ = self
            .0
            .changed
            .wait_timeout_while(queued, LAST_LINES, is_left);
    }

    /// Writes lines for ever, each with one write(2). A line that cannot be written counts as dropped.
    fn write_to(&self, to: &mut impl Write, notice: impl Fn(u64) -> String) {
        let mut missing = 0;
        loop {
            let (lines, dropped) = self.take();
            for line in lines.split_inclusive(|&byte| byte == b'\n') {
                missing += u64::from(to.write_all(line).is_err());
            }
            missing += dropped;
            if missing > 0 && to.write_all(notice(missing).as_bytes()).is_ok() {
                missing = 0;
            }
        }
    }

    /// Waits for lines, and takes them with the number of lines dropped after them.
    fn take(&self) -> (Vec<u8>, u64) {
        let mut queued = self.lock();
        queued.writing = false;
        self.0.changed.notify_all();
        let is_empty = |queued: &mut Queued| queued.lines.is_empty();
        let waited = self.0.changed.wait_while(queued, is_empty);
        let mut queued = waited.unwrap_or_else(PoisonError::into_inner);
        queued.writing = true;
        (mem::take(&mut queued.lines), mem::take(&mut queued.dropped))
    }

    fn lock(&self) -> MutexGuard<'_, Queued> {
        self.0.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.add(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: [u8; 1024] = {
        let mut line = [b'x'; 1024];
        line[1023] = b'\n';
        line
    };

    #[test]
    fn lines_that_find_the_queue_full_are_counted() {
        let queue = LogQueue::default();
        let count = QUEUE_MAX / LINE.len() + 1;
        for _ in 0..count + 3 {
            queue.add(&LINE);
        }
        queue.add(b"a short line is not written before them\n");
        let (lines, dropped) = queue.take();
        assert_eq!(lines.len(), count * LINE.len());
        assert_eq!(dropped, 4);
        queue.add(b"there is room\n");
        assert_eq!(queue.take(), (b"there is room\n".to_vec(), 0));
    }
}

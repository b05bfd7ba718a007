//! A status: told once, or for as long as the client watches. Who watches costs no more than what
//! is on its way to him: what changes meanwhile is looked up when he has taken that.

use std::cell::Cell;

use smol::io::AsyncWriteExt;

use super::arbiter::SessionId;
use super::connection::{Connection, Fault};
use super::core::Core;
use super::times::WATCH_EVERY;
use crate::wire::{DaemonMessage, Message};

/// So many bytes are gathered before they are sent, and the others get their turn.
const BATCH: usize = 2048;

/// Tells the status, and all changes too if the client watches.
pub async fn serve(core: &Core, connection: &Connection, watch: bool) -> Result<(), Fault> {
    let midway = Cell::new(false);
    let mut teller = Teller {
        core,
        connection,
        midway: &midway,
        patient: watch,
        told: None,
        batch: Vec::new(),
    };
    if !watch {
        return teller.tell().await;
    }
    let telling = async {
        let watcher = core.changes.watcher();
        loop {
            teller.tell().await?;
            core.timers.after(WATCH_EVERY).await;
            watcher.after(teller.seen()).await;
        }
    };
    match smol::future::or(silence(connection), telling).await {
        // No error can be told within a message that is half sent.
        Err(Fault::Broken(_)) if midway.get() => Err(Fault::Gone),
        ended => ended,
    }
}

/// Waits until a watching client goes, or says something.
async fn silence(connection: &Connection) -> Result<(), Fault> {
    let mut said = false;
    connection.read(|bytes| said = !bytes.is_empty()).await?;
    match said {
        true => Err(Fault::Broken("a message during a watch".into())),
        false => Ok(()),
    }
}

/// Up to where a client knows everything.
#[derive(Clone, Copy)]
struct Told {
    /// The last change.
    change: u64,
    /// The sessions that had ended.
    ends: u64,
}

struct Teller<'a> {
    core: &'a Core,
    connection: &'a Connection,
    /// Some of what is told is sent, and some not.
    midway: &'a Cell<bool>,
    /// A client may take its time.
    patient: bool,
    /// `None`: the next time all is told.
    told: Option<Told>,
    batch: Vec<u8>,
}

impl Teller<'_> {
    fn seen(&self) -> u64 {
        self.told.map_or(0, |told| told.change)
    }

    /// Tells all that the client does not know. What changes while it is told comes the next time.
    async fn tell(&mut self) -> Result<(), Fault> {
        let (core, before) = (self.core, self.seen());
        let ledger = || core.ledger.borrow();
        let whole = self.told.is_none();
        let reading = core.reading(self.patient && !whole);
        let now = Told {
            change: reading.change,
            ends: ledger().ends(),
        };
        let newest = core.newest();
        let known = self.told.map_or(0, |told| told.ends);
        self.told = Some(now);
        self.add(core.storage_message(whole));
        if let Some(figures) = core.figures_message(reading) {
            self.add(figures);
        }
        self.add(core.totals_message());
        let mut last = SessionId(0);
        while let Some((id, message)) = core.session_message(last, before) {
            if id > newest {
                break;
            }
            last = id;
            self.put(message).await?;
        }
        // Looked up now: he may have been told the rest for a long time.
        let remembered = ledger().ended_after(known);
        let mut missed = !whole && *remembered.start() > known + 1;
        for number in remembered.take_while(|number| *number <= now.ends) {
            match core.past_message(number) {
                Some(message) => self.put(message).await?,
                None => missed = true,
            }
        }
        if missed {
            // So much was going on that some are forgotten: he must hear all anew.
            self.told = None;
        }
        for number in 0.. {
            let Some(message) = core.holder_message(number) else {
                break;
            };
            self.put(message).await?;
        }
        self.add(DaemonMessage::End);
        self.send().await
    }

    fn add(&mut self, message: DaemonMessage) {
        message.encode(&mut self.batch);
    }

    async fn put(&mut self, message: DaemonMessage) -> Result<(), Fault> {
        self.add(message);
        if self.batch.len() < BATCH {
            return Ok(());
        }
        self.send().await?;
        // Many statuses of many sessions must not keep the others from their turn.
        smol::future::yield_now().await;
        Ok(())
    }

    /// Sends what was gathered.
    async fn send(&mut self) -> Result<(), Fault> {
        // Only this is kept while the client does not read, and there may be many such.
        let bytes = std::mem::take(&mut self.batch).into_boxed_slice();
        self.midway.set(true);
        match self.patient {
            true => (&self.connection.stream).write_all(&bytes).await?,
            false => self.connection.write(&bytes).await?,
        }
        self.midway.set(false);
        Ok(())
    }
}

//! Where the power may fail, and what of the writes since the last flush is
//! then on the medium.

use std::ops::Range;

use crate::card::{Event, SECTOR, Write};
use crate::chance::Chance;
use crate::record::Record;

/// The superblock, on a card.
pub const SUPERBLOCK: Range<usize> = 1024..2048;

/// A write, and the part of it that is on the medium.
type Kept = (usize, Range<usize>);

/// One way for the power to fail.
#[derive(Clone, Debug)]
pub struct Cut {
    /// So many events had reached the card.
    pub at: usize,
    /// So many of them, the last one being a flush, are on the medium.
    pub flushed: usize,
    /// Of those after it, these too: the event, and which bytes of it. Applied in
    /// their own order: of two writes to one place the later one wins if both
    /// are kept, and "reordered" is to keep a later one without an earlier one.
    pub kept: Vec<Kept>,
    /// The superblock is half old and half new.
    pub tears_superblock: bool,
}

/// All cuts of a record, in order.
pub fn cuts(record: &Record, chance: &mut Chance) -> Vec<Cut> {
    let mut cuts = Vec::new();
    let mut flushed = 0;
    for at in 0..=record.events.len() {
        match at.checked_sub(1).map(|last| &record.events[last]) {
            Some(Event::Write(write)) => after_write(record, at, flushed, write, chance, &mut cuts),
            _ => {
                flushed = at;
                cuts.push(Cut::new(at, flushed, Vec::new()));
            }
        }
    }
    cuts
}

fn after_write(
    record: &Record,
    at: usize,
    flushed: usize,
    last: &Write,
    chance: &mut Chance,
    cuts: &mut Vec<Cut>,
) {
    let whole = |event: usize| match &record.events[event] {
        Event::Write(write) => (event, 0..write.new.len()),
        Event::Flush => unreachable!("after the last flush"),
    };
    let all: Vec<Kept> = (flushed..at).map(whole).collect();
    cuts.push(Cut::new(at, flushed, all.clone()));
    if all.len() > 1 {
        cuts.push(Cut::new(at, flushed, some(&all, chance)));
    }
    let before = &all[..all.len() - 1];
    for sector in 1..last.sectors() {
        let mut kept = match chance.once_in(2) {
            true => some(before, chance),
            false => before.to_vec(),
        };
        let edge = sector * SECTOR;
        kept.push(match chance.once_in(2) {
            true => (at - 1, 0..edge),
            false => (at - 1, edge..last.new.len()),
        });
        let mut cut = Cut::new(at, flushed, kept);
        let edge = last.at + edge;
        cut.tears_superblock = SUPERBLOCK.start < edge && edge < SUPERBLOCK.end;
        cuts.push(cut);
    }
    let strictest = !matches!(record.events.get(at), Some(Event::Write(_)));
    if strictest || record.is_mark(at) {
        cuts.push(Cut::new(at, flushed, Vec::new()));
    }
}

fn some(writes: &[Kept], chance: &mut Chance) -> Vec<Kept> {
    writes
        .iter()
        .filter(|_| chance.once_in(2))
        .cloned()
        .collect()
}

impl Cut {
    fn new(at: usize, flushed: usize, kept: Vec<Kept>) -> Cut {
        Cut {
            at,
            flushed,
            kept,
            tears_superblock: false,
        }
    }

    pub fn is_boundary(&self) -> bool {
        self.at == self.flushed
    }
}

//! The card: bytes, and everything that was asked of them, in order.

use std::sync::{Mutex, MutexGuard};

/// What a card tears a write at.
pub const SECTOR: usize = 512;

/// Something that reached the card.
#[derive(Clone, Debug)]
pub enum Event {
    Write(Write),
    /// Everything before it is on the medium.
    Flush,
}

#[derive(Clone, Debug)]
pub struct Write {
    pub at: usize,
    pub new: Vec<u8>,
    /// What it replaced.
    old: Vec<u8>,
}

impl Write {
    pub fn sectors(&self) -> usize {
        self.new.len().div_ceil(SECTOR)
    }
}

/// A card that remembers.
pub struct Card {
    state: Mutex<State>,
}

struct State {
    bytes: Vec<u8>,
    events: Vec<Event>,
}

impl Card {
    pub fn new(bytes: Vec<u8>) -> Card {
        let events = Vec::new();
        Card {
            state: Mutex::new(State { bytes, events }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the card's server panicked")
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.state().bytes.len()
    }

    /// How many events there were.
    pub fn position(&self) -> usize {
        self.state().events.len()
    }

    /// How many of them were writes.
    pub fn writes(&self) -> usize {
        let is_write = |event: &&Event| matches!(event, Event::Write(_));
        self.state().events.iter().filter(is_write).count()
    }

    /// Appends what is there, as far as there is something.
    pub fn read(&self, at: usize, len: usize, out: &mut Vec<u8>) {
        let state = self.state();
        let end = (at + len).min(state.bytes.len());
        out.extend_from_slice(&state.bytes[at.min(end)..end]);
    }

    /// Fails if it goes past the end.
    pub fn write(&self, at: usize, new: &[u8]) -> Result<(), PastTheEnd> {
        let mut state = self.state();
        let place = state.bytes.get_mut(at..at + new.len()).ok_or(PastTheEnd)?;
        let old = place.to_vec();
        place.copy_from_slice(new);
        let new = new.to_vec();
        state.events.push(Event::Write(Write { at, new, old }));
        Ok(())
    }

    pub fn flush(&self) {
        self.state().events.push(Event::Flush);
    }

    /// Takes the events; the bytes stay as they are.
    pub fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut self.state().events)
    }

    /// The bytes as they are, and a new beginning for the events.
    pub fn start_over(&self) -> Vec<u8> {
        let mut state = self.state();
        state.events.clear();
        state.bytes.clone()
    }

    /// Makes all events since the last beginning undone.
    pub fn roll_back(&self) {
        let mut state = self.state();
        while let Some(event) = state.events.pop() {
            if let Event::Write(write) = event {
                state.bytes[write.at..][..write.old.len()].copy_from_slice(&write.old);
            }
        }
    }
}

#[derive(Debug)]
pub struct PastTheEnd;

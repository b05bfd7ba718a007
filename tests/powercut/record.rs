//! What happened on a card while sessions ran, and what must therefore be on it
//! after a cut. It knows nothing of ext4.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::card::Event;

/// What is at a path: of a file its bytes, of a symlink its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    File(Arc<[u8]>),
    Link(String),
}

/// Something in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `None` of a directory.
    pub content: Option<Content>,
    pub rights: Vec<u8>,
    /// Extended attributes.
    pub attributes: Vec<u8>,
}

/// All of a directory, by path below the storage's root.
pub type Tree = BTreeMap<String, Entry>;

/// A transaction on a directory, which is as it was or as it shall be, at any time.
#[derive(Debug)]
pub struct Swap {
    /// For messages.
    pub name: String,
    /// Below the storage's root.
    pub directory: String,
    pub old: Tree,
    pub new: Tree,
    pub span: Span,
}

/// What a session's command does to a path, below the storage's root.
#[derive(Clone, Debug)]
pub struct Change {
    pub path: String,
    /// `None`: it is removed.
    pub leaves: Option<Content>,
    /// It is either as it was or as it shall be, at any time.
    pub atomic: bool,
}

/// A session's command.
#[derive(Clone, Debug)]
pub struct Step {
    pub script: String,
    pub changes: Vec<Change>,
}

/// When a step was, in events.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Nothing of it reached the card before that.
    pub begun: usize,
    /// `pst run` had returned 0.
    pub acknowledged: Option<usize>,
}

/// A card's life.
pub struct Record {
    /// The card at the beginning.
    pub base: Vec<u8>,
    pub events: Vec<Event>,
    /// In the order in which they began. No two that overlap touch the same path.
    pub steps: Vec<(Step, Span)>,
    /// Transactions, one after the other. If there are some, the power only fails during them.
    pub swaps: Vec<Swap>,
    /// While no session was open and the storage read-only: first and last position.
    pub quiet: Vec<(usize, usize)>,
}

impl Swap {
    /// Whether the directory, which is found so after a cut, is as it must be.
    pub fn allows(&self, at: usize, found: &Tree) -> bool {
        let done = self
            .span
            .acknowledged
            .is_some_and(|position| position <= at);
        *found == self.new || (!done && *found == self.old)
    }
}

/// Picks out a directory, without temporary files and working areas.
pub fn directory(all: &Tree, directory: &str) -> Tree {
    let is_in = |path: &str| Path::new(path).starts_with(directory) && !path.contains("/.pst-");
    let found = all.iter().filter(|(path, _)| is_in(path));
    found
        .map(|(path, entry)| (path.clone(), entry.clone()))
        .collect()
}

impl Record {
    /// Whether no session was open at that position.
    pub fn is_quiet(&self, at: usize) -> bool {
        self.quiet
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&at))
    }

    /// The positions where the demands on the card change.
    pub fn is_mark(&self, at: usize) -> bool {
        let spans = self.steps.iter().map(|(_, span)| span);
        let mut spans = spans.chain(self.swaps.iter().map(|swap| &swap.span));
        spans.any(|span| span.acknowledged == Some(at))
            || self.quiet.iter().any(|(first, _)| *first == at)
    }

    /// The transaction that is under way at that position, or was acknowledged there.
    pub fn swap(&self, at: usize) -> Option<&Swap> {
        let is_under_way = |swap: &&Swap| {
            let end = swap.span.acknowledged.expect("all are");
            (swap.span.begun..=end).contains(&at)
        };
        self.swaps.iter().find(is_under_way)
    }

    /// What may be at each path on whose state somebody can rely after a cut at
    /// that position. All others may be in any state.
    pub fn demands(&self, at: usize) -> BTreeMap<&str, Vec<Option<&Content>>> {
        let mut paths: BTreeMap<&str, Vec<Option<&Content>>> = BTreeMap::new();
        for (step, span) in self.steps.iter().filter(|(_, span)| span.begun < at) {
            let done = span.acknowledged.is_some_and(|position| position <= at);
            for change in &step.changes {
                let allowed = paths.entry(&change.path).or_default();
                if done {
                    *allowed = vec![change.leaves.as_ref()];
                } else if change.atomic && !allowed.is_empty() {
                    allowed.push(change.leaves.as_ref());
                } else {
                    allowed.clear();
                }
            }
        }
        paths.retain(|_, allowed| !allowed.is_empty());
        paths
    }
}

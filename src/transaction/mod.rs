//! Changes that are all or nothing: after a crash at any moment, the old file or tree is there, or the new one.
//!
//! `put` reads its input to the end and then runs this program again in a session, as any other command: that process
//! is `store`. `edit` reads the result of an editor. `atomic` does the same for `pst run --atomic`.

pub(crate) mod atomic;
mod attributes;
mod copy;
pub(crate) mod edit;
pub(crate) mod input;
mod lock;
pub(crate) mod path;
pub(crate) mod put;
pub(crate) mod store;
mod tree;

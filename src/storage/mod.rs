//! The storage: one mounted filesystem whose superblock is switched between read-only and
//! read-write. Everything here may block, and is called by the worker thread or by an applet
//! that has nothing else to do. It decides nothing about sessions.

pub mod condition;
pub mod figures;
pub mod guard;
pub mod holders;
pub mod lock;
pub mod meter;
pub mod mountinfo;
pub mod mounts;
pub mod prepare;
pub mod roots;
pub mod search;
pub mod superblock;
pub mod survey;

pub use superblock::Storage;
pub use survey::Facts;

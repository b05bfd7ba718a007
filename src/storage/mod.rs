//! The storage: one mounted filesystem whose superblock is switched between read-only and
//! read-write. Everything here may block, and is called by the worker thread or by an applet
//! that has nothing else to do. It decides nothing about sessions.

pub mod directories;
pub(crate) mod figures;
pub(crate) mod guard;
pub(crate) mod health;
pub(crate) mod holders;
pub(crate) mod inspect;
pub(crate) mod lock;
pub(crate) mod meter;
pub mod mountinfo;
pub(crate) mod mounts;
pub(crate) mod prepare;
pub(crate) mod search;
pub(crate) mod superblock;

pub(crate) use inspect::StorageInfo;
pub(crate) use superblock::Storage;

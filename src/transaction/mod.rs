//! Changes that are all or nothing: after a crash at any moment, the old file or tree is there, or the new one.

pub(crate) mod path;
pub(crate) mod remains;

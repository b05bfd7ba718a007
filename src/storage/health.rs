//! In which health the storage was found: what looks and remounts say to who decides.

use std::sync::Arc;

/// Why something is so, in words for the user.
pub(crate) type Text = Arc<str>;

/// Whether the storage can serve at all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Health {
    Ready,
    Absent(Text),
    /// Mounted, but the mount's own flag forbids writing, or the layout is not ours to switch.
    Unprepared(Text),
    /// Given up by the kernel, or lost data, or a remount failed; until it is mounted anew.
    Failed(Text),
}

/// What a look at the storage found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Inspection {
    pub health: Health,
    /// Whether the superblock is writable, so that it must be brought back if nobody works.
    pub writable: bool,
}

/// How a remount to read-only went.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Remount {
    Done,
    /// EBUSY: somebody still holds something.
    Busy,
    /// Any other error: the storage is not what it was.
    Failed(Text),
}

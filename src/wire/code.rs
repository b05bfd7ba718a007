//! The messages' enums, one byte each on the wire.

/// An enum and the bytes that are its values.
macro_rules! code {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $byte:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$value_doc])* $value = $byte,)*
        }

        impl From<$name> for u8 {
            fn from(value: $name) -> u8 {
                value as u8
            }
        }

        impl TryFrom<u8> for $name {
            type Error = ();

            fn try_from(byte: u8) -> Result<Self, ()> {
                match byte {
                    $($byte => Ok(Self::$value),)*
                    _ => Err(()),
                }
            }
        }
    };
}

code! {
    State {
        Absent = 1,
        /// The mount's own flag is read-only: `pst prepare` is needed.
        Unprepared = 2,
        /// Read-only, as it should be.
        ReadOnly = 3,
        /// On the way to writable.
        GoingRw = 4,
        ReadWrite = 5,
        /// On the way to read-only.
        GoingRo = 6,
        /// Should be read-only, but the kernel says busy; still writable.
        Stuck = 7,
        /// Given up by the kernel, or a remount failed; until it is mounted anew.
        Failed = 8,
    }
}

impl State {
    /// The state's name, as people and `--json` see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Unprepared => "unprepared",
            Self::ReadOnly => "ro",
            Self::GoingRw => "going-rw",
            Self::ReadWrite => "rw",
            Self::GoingRo => "going-ro",
            Self::Stuck => "stuck",
            Self::Failed => "failed",
        }
    }
}

code! {
    /// Why there is no session.
    DenyReason {
        /// Neither root nor in the access group.
        NotAdmitted = 1,
        /// Too many connections, of this user or in all.
        Limit = 2,
        /// The storage is not mounted.
        Absent = 3,
        /// The storage's mount needs `pst prepare`.
        Unprepared = 4,
        /// The storage cannot be made writable.
        Failed = 5,
        /// The daemon is about to exit.
        Stopping = 6,
        /// There is less free than the client needs.
        Full = 7,
    }
}

code! {
    /// Why a session is over before its client closed it.
    RevokeReason {
        /// The daemon is about to exit.
        Stopping = 1,
        /// The storage is no longer there, or no longer writable.
        Lost = 2,
    }
}

code! {
    /// How a session's close went.
    CloseResult {
        /// What was written is on the medium.
        Durable = 1,
        Failed = 2,
    }
}

code! {
    /// How far a session is.
    Phase {
        /// Asked for, not yet granted.
        Waiting = 1,
        /// Granted: the command may write.
        Granted = 2,
        /// Revoked, and its client not yet gone.
        Revoked = 3,
        /// Its data is on the way to the medium.
        Closing = 4,
    }
}

code! {
    /// What blocks the way back to read-only.
    HolderKind {
        /// A process, with a descriptor or mapping or as its working directory.
        Process = 1,
        /// A loop device, made of a file on the storage.
        Loop = 2,
        Swap = 3,
        /// Nothing was found: a kernel user, or a descriptor in flight.
        Unknown = 4,
    }
}

code! {
    Ended {
        /// Closed by its client, and its data is on the medium.
        Durable = 1,
        /// Closed, and its data may be lost.
        Failed = 2,
        Denied = 3,
        /// Told to end, and it did.
        Revoked = 4,
        /// The connection ended without a close: the client was killed, or gave up.
        Gone = 5,
        /// Told to end, it did not, and its connection was cut.
        Cut = 6,
    }
}

impl Ended {
    /// Its name, as people and `--json` see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Durable => "durable",
            Self::Failed => "failed",
            Self::Denied => "denied",
            Self::Revoked => "revoked",
            Self::Gone => "gone",
            Self::Cut => "cut",
        }
    }
}

impl Phase {
    /// Its name, as people and `--json` see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Granted => "granted",
            Self::Revoked => "revoked",
            Self::Closing => "closing",
        }
    }
}

impl HolderKind {
    /// Its name, as `--json` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Loop => "loop",
            Self::Swap => "swap",
            Self::Unknown => "unknown",
        }
    }
}

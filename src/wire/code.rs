//! The enums of the messages, one byte each on the wire.

/// Declares an enum together with the bytes that are its values.
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
    /// Why a session was refused.
    DenyReason {
        /// The user is neither root nor in the access group.
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
    }
}

code! {
    /// Why the daemon ends a session before its client closes it.
    RevokeReason {
        /// The daemon is about to exit.
        Stopping = 1,
        /// The storage is no longer there, or no longer writable.
        Lost = 2,
    }
}

code! {
    /// Whether everything that was written before a close is on stable storage.
    CloseResult {
        Durable = 1,
        /// Data may be lost.
        Failed = 2,
    }
}

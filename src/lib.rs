//! `pst` keeps a small storage partition read-only and makes it writable only while a client works with it.
//!
//! The crate is a library only for its own tests and fuzz targets: its interface is the binary's.
//!
//! | module | owns |
//! | --- | --- |
//! | `cli` | commands and their options |
//! | `daemon` | sessions, and when the storage is writable: `controller` owns the state, `arbiter` decides, `worker` makes the calls that may block, `server` accepts connections, `native` and `kvmd` speak the protocols |
//! | `transaction` | changes that are all or nothing, in a session of `run`: `pst put`, `pst edit`, `pst run --atomic` |
//! | `run` | one session and its command: `pst run` itself, and the supervisor of the command's process tree |
//! | `status`, `check` | the daemon's status for users; a check of everything that a session needs |
//! | `repair` | `pst repair`: a storage with a torn superblock |
//! | `storage` | the mount: inspection, superblock, directories, lock, holders |
//! | `client` | a connection to the daemon |
//! | `wire` | messages, frames and the status document; no I/O |
//! | `config`, `fstab` | the storage's location, and its users and groups |
//! | `systemd` | the service manager: socket activation, watchdog and states |
//! | `table`, `units`, `escape`, `logging`, `problem` | text for users: tables, amounts, names from outside, the log, errors |
//! | `sys` | system calls that std and rustix do not wrap, and the only `unsafe` code |
//!
//! Modules import only from below in this table: `cli` starts the commands, the commands use `storage` and `client`, and
//! any module may use `wire`, `problem` and `sys`.
//!
//! # One session
//!
//! 1. `main` and `cli` read the options and call `run`. It forks the supervisor (`run/supervisor`), connects (`client`)
//!    and sends `Open` (`wire`).
//! 2. `daemon/server` accepts the connection, `admission` counts it, and `native` reads the message.
//! 3. `native` asks the controller for a session (`handle`). `controller` feeds the request to `arbiter`, which decides
//!    that the storage must become writable.
//! 4. `worker` inspects the storage and switches the superblock (`storage`). Its report goes back through `controller` to
//!    `arbiter`, which grants the session; `native` sends `Granted`.
//! 5. `run/verify` checks that the storage is writable here; the supervisor gets the session, starts the
//!    command and watches its tree.
//! 6. The command ends, and `run` sends `Close`. The arbiter wants the storage read-only: `worker` remounts and syncs, and
//!    `native` answers `Closed`. `run` returns the command's code.

pub(crate) mod check;
pub mod cli;
pub(crate) mod client;
pub mod config;
pub mod daemon;
pub mod escape;
pub mod fstab;
pub(crate) mod logging;
#[cfg(test)]
#[allow(dead_code)] // the tests that run the binary use all of it
#[path = "../tests/e2e/rig/privilege.rs"]
mod privilege;
pub mod problem;
pub(crate) mod repair;
pub(crate) mod run;
pub(crate) mod status;
pub mod storage;
pub mod sys;
pub(crate) mod systemd;
pub(crate) mod table;
pub(crate) mod transaction;
pub(crate) mod units;
pub mod wire;

//! What the daemon said, put together: a status, and what changed in it since. Names from outside
//! are escaped here, once.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use crate::daemon::{FORGOTTEN, REMEMBERED};
use crate::escape::escape;
use crate::sys::user;
use crate::wire::{DaemonMessage, Ended, Figures, HolderKind, Incident, Phase, State, Totals};

/// A point of time that the daemon told as an age.
#[derive(Clone, Copy, Debug)]
pub(super) struct Since(Instant);

impl Since {
    fn ago(milliseconds: u64) -> Since {
        let now = Instant::now();
        let age = Duration::from_millis(milliseconds);
        Since(now.checked_sub(age).unwrap_or(now))
    }

    /// How long ago it was.
    pub(super) fn age(self) -> Duration {
        self.0.elapsed()
    }

    /// When it was by the wall clock, as that goes now.
    pub(super) fn clock(self) -> SystemTime {
        let now = SystemTime::now();
        now.checked_sub(self.age()).unwrap_or(now)
    }
}

/// All that the daemon said.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub daemon_version: String,
    pub daemon_pid: u32,
    pub started: Since,
    pub state: State,
    /// When it got into that state.
    pub since: Since,
    /// Why it is not well; empty if it is.
    pub reason: String,
    pub mount: String,
    pub data: String,
    /// The device; empty while nothing is mounted.
    pub device: String,
    /// The filesystem's type; empty while nothing is mounted.
    pub fstype: String,
    pub size: u64,
    /// What users may still write, in bytes.
    pub free: u64,
    /// What ext4 says of itself.
    pub figures: Option<Figures>,
    /// What the daemon has counted.
    pub totals: Totals,
    /// The open sessions, by number.
    pub sessions: BTreeMap<u64, Session>,
    /// The sessions that ended, the oldest first.
    pub past: VecDeque<Past>,
    /// Who blocks the way back to read-only.
    pub holders: Vec<Holder>,
}

#[derive(Debug)]
pub(super) struct Session {
    pub pid: u32,
    pub uid: u32,
    pub user: String,
    pub command: String,
    pub phase: Phase,
    /// When it was asked for.
    pub opened: Since,
}

impl Session {
    /// Whether it was perhaps forgotten.
    pub(super) fn is_long(&self) -> bool {
        self.opened.age() >= FORGOTTEN
    }
}

#[derive(Debug)]
pub(super) struct Past {
    pub id: u64,
    pub pid: u32,
    pub uid: u32,
    pub user: String,
    pub command: String,
    pub ended: Ended,
    pub at: Since,
    pub lasted: Duration,
    /// Bytes written to the device meanwhile.
    pub written: Option<u64>,
}

/// Who blocks the way back to read-only.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub kind: HolderKind,
    /// Its process; 0 for none.
    pub pid: u32,
    pub uid: u32,
    /// His name, or number; empty for none.
    pub user: String,
    /// The process's command; empty for none.
    pub command: String,
    pub path: String,
}

/// Users' names, each looked up once.
#[derive(Debug, Default)]
struct Users(BTreeMap<u32, String>);

impl Users {
    fn name(&mut self, uid: u32) -> String {
        let name = self.0.entry(uid).or_insert_with(|| {
            let name = user::user_name(uid).unwrap_or_else(|| uid.to_string());
            escape(&name).to_string()
        });
        name.clone()
    }
}

/// A message that has no place where it came.
#[derive(Debug)]
pub(super) struct OutOfPlace;

#[derive(Debug, Default)]
pub(super) struct Collector {
    snapshot: Option<Snapshot>,
    users: Users,
}

impl Collector {
    /// What was said so far.
    pub(super) fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref()
    }

    /// Takes one message; true: it was the last of an update.
    ///
    /// # Errors
    /// It is none of a status, or comes before the first.
    pub(super) fn take(&mut self, message: DaemonMessage) -> Result<bool, OutOfPlace> {
        match message {
            DaemonMessage::Storage { .. } => self.take_storage(message)?,
            message => {
                let snapshot = self.snapshot.as_mut().ok_or(OutOfPlace)?;
                return take_part(snapshot, &mut self.users, message);
            }
        }
        Ok(false)
    }

    fn take_storage(&mut self, message: DaemonMessage) -> Result<(), OutOfPlace> {
        let DaemonMessage::Storage {
            whole,
            daemon_version,
            pid,
            uptime_ms,
            state,
            state_ms,
            reason,
            mount,
            data,
            device,
            fstype,
            size,
            free,
            ..
        } = message
        else {
            return Err(OutOfPlace);
        };
        let kept = self.snapshot.take().filter(|_| !whole);
        if kept.is_none() && !whole {
            return Err(OutOfPlace);
        }
        let (sessions, past) = kept.map_or_else(Default::default, |old| (old.sessions, old.past));
        self.snapshot = Some(Snapshot {
            daemon_version: escape(&daemon_version).to_string(),
            daemon_pid: pid,
            started: Since::ago(uptime_ms),
            state,
            since: Since::ago(state_ms),
            reason: escape(&reason).to_string(),
            mount: escape(&mount).to_string(),
            data: escape(&data).to_string(),
            device: escape(&device).to_string(),
            fstype: escape(&fstype).to_string(),
            size,
            free,
            figures: None,
            totals: Totals::default(),
            sessions,
            past,
            holders: Vec::new(),
        });
        Ok(())
    }
}

fn take_part(
    snapshot: &mut Snapshot,
    users: &mut Users,
    message: DaemonMessage,
) -> Result<bool, OutOfPlace> {
    match message {
        DaemonMessage::Figures(figures) => {
            snapshot.figures = Some(Figures {
                first: figures.first.map(harmless),
                last: figures.last.map(harmless),
                ..figures
            });
        }
        DaemonMessage::Totals(totals) => snapshot.totals = totals,
        DaemonMessage::Session {
            id,
            pid,
            uid,
            phase,
            age_ms,
            command,
        } => {
            let session = Session {
                pid,
                uid,
                user: users.name(uid),
                command: escape(&command).to_string(),
                phase,
                opened: Since::ago(age_ms),
            };
            snapshot.sessions.insert(id, session);
        }
        DaemonMessage::Past {
            id,
            pid,
            uid,
            ended,
            ago_ms,
            lasted_ms,
            written,
            command,
        } => {
            snapshot.sessions.remove(&id);
            if snapshot.past.len() == REMEMBERED {
                snapshot.past.pop_front();
            }
            snapshot.past.push_back(Past {
                id,
                pid,
                uid,
                user: users.name(uid),
                command: escape(&command).to_string(),
                ended,
                at: Since::ago(ago_ms),
                lasted: Duration::from_millis(lasted_ms),
                written,
            });
        }
        DaemonMessage::Holder {
            kind,
            pid,
            uid,
            command,
            path,
        } => snapshot.holders.push(Holder {
            kind,
            pid,
            uid,
            user: match kind {
                HolderKind::Process => users.name(uid),
                _ => String::new(),
            },
            command: escape(&command).to_string(),
            path: escape(&path).to_string(),
        }),
        DaemonMessage::End => return Ok(true),
        _ => return Err(OutOfPlace),
    }
    Ok(false)
}

fn harmless(incident: Incident) -> Incident {
    Incident {
        function: escape(&incident.function).to_string(),
        ..incident
    }
}

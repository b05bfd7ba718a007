//! A traced program and its fault: what is done to it besides, and how it may end.

use nix::errno::Errno;
use nix::sys::signal::Signal;
use syscalls::Sysno;

use crate::plan::{Fault, Plan};
use crate::process::{is_stopped, send};
use crate::rig::{Outcome, alive};
use crate::tracer::Tracer;

/// A traced program, and what is done to it besides its fault.
pub struct Attack {
    pub tracer: Tracer,
    plan: Option<Plan>,
    /// A stopped process has been continued.
    continued: bool,
    /// The stopped process whose partner was killed.
    alone: Option<u32>,
}

impl Attack {
    pub fn new(tracer: Tracer, plan: Option<Plan>) -> Attack {
        Attack {
            tracer,
            plan,
            continued: false,
            alone: None,
        }
    }

    /// Returns the fault, once the program has met it.
    pub fn fault(&self) -> Option<Fault> {
        let struck = self.tracer.victim().is_some();
        self.plan.filter(|_| struck).map(|plan| plan.fault)
    }

    /// Does to a stopped process what its plan says.
    pub fn tend(&mut self, partner: &dyn Fn(u32) -> u32) {
        let Some(victim) = self.tracer.victim().filter(|victim| is_stopped(*victim)) else {
            return;
        };
        if self.continued || self.alone.is_some() {
            return;
        }
        match (self.fault(), partner(victim)) {
            (Some(Fault::StopAlone), partner) if alive(partner) => {
                send(partner, Signal::SIGKILL);
                self.alone = Some(victim);
            }
            (Some(Fault::Stop | Fault::StopAlone), _) => {
                send(victim, Signal::SIGCONT);
                self.continued = true;
            }
            _ => {}
        }
    }

    /// The process that was stopped and whose partner was killed, until it is continued.
    pub fn left_alone(&self) -> Option<u32> {
        self.alone.filter(|_| !self.continued)
    }

    /// Whether the stopped process has made only its first calls: it has not closed its copy of `pst run`'s end of their
    /// link, or has just done so.
    pub fn begins(&self) -> bool {
        // A debug build looks at a descriptor with fcntl before it closes it.
        let first = [Sysno::set_robust_list, Sysno::fcntl, Sysno::close];
        self.plan
            .is_some_and(|plan| plan.call.nth == 1 && first.contains(&plan.call.name))
    }

    pub fn go_on(&mut self) {
        self.continued = true;
        if let Some(victim) = self.alone.filter(|victim| alive(*victim)) {
            send(victim, Signal::SIGCONT);
        }
    }

    /// Whether nothing is left to be done to a stopped process.
    pub fn has_gone_on(&self) -> bool {
        let stops = matches!(self.fault(), Some(Fault::Stop | Fault::StopAlone));
        !stops || self.continued || self.tracer.victim().is_some_and(|victim| !alive(victim))
    }

    /// Whether the daemon learnt from its fault that data is lost, or that the device fails.
    pub fn may_fail_the_storage(&self) -> bool {
        let (Some(plan), Some(Fault::Error(errno))) = (self.plan, self.fault()) else {
            return false;
        };
        match plan.call.name {
            Sysno::syncfs => true,
            Sysno::fspick | Sysno::fsconfig | Sysno::ioctl => errno == Errno::EIO,
            _ => false,
        }
    }

    pub fn has_killed(&self) -> bool {
        self.fault() == Some(Fault::Kill)
    }

    /// How `pst run` or the daemon may end: not by a signal that it was not sent, not without a word, and well if it was
    /// only stopped.
    pub fn judge_end(&self, ended: &Outcome) -> Result<(), String> {
        let fault = self.fault();
        let code = ended.status.code();
        let silenced = self.plan.is_some_and(|plan| plan.call.name == Sysno::write);
        let fine = match (fault, code) {
            _ if has_panicked(&ended.stderr) => false,
            (_, Some(0)) => true,
            (None | Some(Fault::Stop), _) => false,
            (Some(Fault::Kill | Fault::StopAlone | Fault::Term), _) => true,
            (Some(Fault::Error(_)), Some(132..=136 | 139)) => {
                std_gave_up(&ended.stderr) || !has_begun(&ended.stderr)
            }
            (Some(Fault::Error(_)), Some(_)) => silenced || !ended.stderr.is_empty(),
            (Some(Fault::Error(_)), None) => false,
        };
        match fine {
            true => Ok(()),
            false => Err(format!("a bad end: {ended:?}")),
        }
    }
}

/// Whether our code panicked, or a library that was begun with: async-io panics if it cannot start.
fn has_panicked(said: &str) -> bool {
    let mut places = said.split(" panicked at ").skip(1);
    places.any(|place| place.starts_with("src/") || (has_begun(said) && !place.starts_with(STD)))
}

/// Whether std panicked, as it does in a new thread that it cannot set up.
fn std_gave_up(said: &str) -> bool {
    said.contains(&format!(" panicked at {STD}"))
}

const STD: &str = "/rustc/";

/// Whether `pst run` or the daemon has said anything of its own.
pub fn has_begun(said: &str) -> bool {
    said.contains(" INFO ")
}

//! What a trial does: which call of which process meets which fault.

use std::fmt;
use std::str::FromStr;

use nix::errno::Errno;
use syscalls::Sysno;

/// A program that is attacked, with everything that it forks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Program {
    /// `pst run`, its supervisor, and the command's process until its exec.
    Run,
    /// The daemon and its threads.
    Daemon,
}

/// A system call: the `nth` one of its name by one task. Tasks are processes or threads, in the order in which the
/// program made them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Call {
    pub program: Program,
    pub task: usize,
    pub name: Sysno,
    pub nth: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    Kill,
    /// Stopped, and continued at once.
    Stop,
    /// Stopped, and then its partner is killed: `pst run`'s is the daemon, the others' is `pst run`.
    StopAlone,
    Term,
    /// The call fails with this, and is not made; but close(2), which closes also then.
    Error(Errno),
}

/// A call and its fault; as text `supervisor:fcntl:2:KILL`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    pub call: Call,
    pub fault: Fault,
}

pub const FAULTS: [Fault; 11] = [
    Fault::Kill,
    Fault::Stop,
    Fault::StopAlone,
    Fault::Term,
    Fault::Error(Errno::EINTR),
    Fault::Error(Errno::ENOMEM),
    Fault::Error(Errno::EMFILE),
    Fault::Error(Errno::EIO),
    Fault::Error(Errno::EAGAIN),
    Fault::Error(Errno::EPERM),
    Fault::Error(Errno::ENOBUFS),
];

const RUN_TASKS: [&str; 3] = ["run", "supervisor", "command"];

impl Call {
    /// The faults that it can meet; only signals where the kernel `can_fail` it in no way.
    pub fn faults(self, can_fail: bool) -> impl Iterator<Item = Fault> {
        FAULTS.into_iter().filter(move |fault| match fault {
            Fault::Error(_) => can_fail,
            // Nobody but the supervisor can wake the command.
            Fault::StopAlone => self.program == Program::Daemon || self.task < 2,
            _ => true,
        })
    }
}

/// Whether the kernel can refuse a call that is made right. An error of one that it cannot refuse would try only what
/// libraries make of the impossible.
pub fn can_fail(name: Sysno, second_argument: u64, third_argument: u64) -> bool {
    match name {
        Sysno::exit | Sysno::exit_group | Sysno::rt_sigreturn => false,
        Sysno::getpid | Sysno::getppid | Sysno::gettid | Sysno::set_tid_address => false,
        Sysno::getuid | Sysno::geteuid | Sysno::getgid | Sysno::getegid => false,
        Sysno::rt_sigaction | Sysno::rt_sigprocmask | Sysno::sigaltstack => false,
        Sysno::rseq | Sysno::set_robust_list | Sysno::timerfd_settime => false,
        Sysno::wait4 | Sysno::futex => false, // WNOHANG, with children; private ones
        Sysno::prlimit64 => third_argument != 0, // the new limit
        Sysno::epoll_ctl => second_argument == EPOLL_CTL_ADD,
        _ => true,
    }
}

const EPOLL_CTL_ADD: u64 = 1;

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Call {
            program,
            task,
            name,
            nth,
        } = self;
        match (program, RUN_TASKS.get(*task)) {
            (Program::Run, Some(task)) => write!(f, "{task}:{name}:{nth}"),
            (Program::Run, None) => write!(f, "run.{task}:{name}:{nth}"),
            (Program::Daemon, _) => write!(f, "daemon.{task}:{name}:{nth}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Kill => write!(f, "KILL"),
            Fault::Stop => write!(f, "STOP"),
            Fault::StopAlone => write!(f, "STOP-ALONE"),
            Fault::Term => write!(f, "TERM"),
            Fault::Error(errno) => write!(f, "{errno:?}"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.call, self.fault)
    }
}

impl FromStr for Plan {
    type Err = String;

    fn from_str(text: &str) -> Result<Plan, String> {
        let wrong = || format!("{text}: not as in supervisor:fcntl:2:KILL");
        let words: Vec<&str> = text.split(':').collect();
        let [task, name, nth, fault] = words[..] else {
            return Err(wrong());
        };
        let (program, task) = match RUN_TASKS.iter().position(|known| *known == task) {
            Some(task) => (Program::Run, Some(task)),
            None => {
                let (program, number) = task.split_once('.').ok_or_else(wrong)?;
                let program = match program {
                    "daemon" => Program::Daemon,
                    _ => Program::Run,
                };
                (program, number.parse().ok())
            }
        };
        let call = Call {
            program,
            task: task.ok_or_else(wrong)?,
            name: name.parse().map_err(|_| wrong())?,
            nth: nth.parse().map_err(|_| wrong())?,
        };
        let fault = FAULTS.into_iter().find(|known| known.to_string() == fault);
        Ok(Plan {
            call,
            fault: fault.ok_or_else(wrong)?,
        })
    }
}

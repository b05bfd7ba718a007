//! Follows a program's system calls with ptrace(2), and lets one of them meet its fault.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use syscalls::Sysno;

use crate::plan::{self, Call, Fault, Plan, Program};
use crate::rig::wait::{BOUND, holds_within};

/// A thread that traces a program, until its end or until the fault.
pub struct Tracer {
    thread: JoinHandle<Vec<Seen>>,
    struck: Arc<OnceLock<u32>>,
}

impl Tracer {
    /// Traces a process, which must be another process's child, from its next exec on. Without a plan it only records.
    pub fn start(pid: u32, program: Program, plan: Option<Plan>) -> Tracer {
        let struck = Arc::new(OnceLock::new());
        let leader = Pid::from_raw(pid.try_into().expect("a pid"));
        let mut trace = Trace {
            program,
            plan,
            leader,
            struck: struck.clone(),
            tasks: vec![leader],
            within: BTreeSet::new(),
            at_exit: None,
            counts: BTreeMap::new(),
            calls: Vec::new(),
        };
        let (ready, seized) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let options = Options::PTRACE_O_TRACESYSGOOD
                | Options::PTRACE_O_TRACEEXEC
                | Options::PTRACE_O_TRACECLONE
                | Options::PTRACE_O_TRACEFORK
                | Options::PTRACE_O_TRACEVFORK;
            ptrace::seize(leader, options).expect("ptrace");
            ready.send(()).expect("the trial waits");
            // What it traces is let go when this thread ends.
            trace.follow();
            trace.calls
        });
        seized.recv().expect("seized");
        Tracer { thread, struck }
    }

    /// The process that met the fault, once one has.
    pub fn victim(&self) -> Option<u32> {
        self.struck.get().copied()
    }

    /// The calls that were seen, when it is over.
    pub fn calls(self) -> Vec<Seen> {
        let over = holds_within(BOUND, || self.thread.is_finished());
        assert!(over, "the traced program does not end");
        self.thread.join().expect("the tracer")
    }
}

/// A call that was seen.
pub struct Seen {
    pub call: Call,
    pub can_fail: bool,
}

struct Trace {
    program: Program,
    plan: Option<Plan>,
    leader: Pid,
    struck: Arc<OnceLock<u32>>,
    /// In the order of their creation.
    tasks: Vec<Pid>,
    /// Those in a call.
    within: BTreeSet<Pid>,
    /// The error for a call that is made all the same.
    at_exit: Option<(Pid, Errno)>,
    counts: BTreeMap<(usize, Sysno), usize>,
    calls: Vec<Seen>,
}

impl Trace {
    fn follow(&mut self) {
        // Not what other threads have started or trace.
        let mine = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        loop {
            let status = match waitpid(None, Some(mine)) {
                Err(Errno::EINTR) => continue,
                Err(_) => return,
                Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) => {
                    if pid == self.leader {
                        return;
                    }
                    continue;
                }
                Ok(status) => status,
            };
            let task = status.pid().expect("a stopped task");
            match self.go_on(task, status) {
                Ok(true) => return,
                Ok(false) | Err(Errno::ESRCH) => {} // it was killed meanwhile
                Err(error) => panic!("ptrace: {error}"),
            }
        }
    }

    /// Lets a stopped task go on. Returns whether it met its fault.
    fn go_on(&mut self, task: Pid, status: WaitStatus) -> Result<bool, Errno> {
        let index = self.index(task);
        let mut signal = None;
        match status {
            WaitStatus::PtraceSyscall(_) => {
                let registers = ptrace::getregs(task)?;
                // What the result is at the entry; the call itself may return it, too.
                let entry = registers.rax as i64 == -i64::from(libc::ENOSYS);
                if self.within.remove(&task) || !entry {
                    if let Some((_, errno)) = self.at_exit.filter(|(failing, _)| *failing == task) {
                        self.fail(task, registers, errno)?;
                        return Ok(true);
                    }
                } else if self.enter(task, index, registers)? {
                    return Ok(true);
                } else {
                    self.within.insert(task);
                }
            }
            // The command's own calls are not attacked.
            WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_EXEC) if index > 0 => {
                return ptrace::detach(task, None).map(|()| false);
            }
            WaitStatus::PtraceEvent(
                _,
                _,
                libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE,
            ) => {
                let child = ptrace::getevent(task)?;
                self.index(Pid::from_raw(child.try_into().expect("a pid")));
            }
            WaitStatus::PtraceEvent(_, received, 0) => signal = Some(received),
            _ => {}
        }
        ptrace::syscall(task, signal)?;
        Ok(false)
    }

    fn index(&mut self, task: Pid) -> usize {
        let known = self.tasks.iter().position(|known| *known == task);
        known.unwrap_or_else(|| {
            self.tasks.push(task);
            self.tasks.len() - 1
        })
    }

    fn enter(
        &mut self,
        task: Pid,
        index: usize,
        registers: libc::user_regs_struct,
    ) -> Result<bool, Errno> {
        let Some(name) = Sysno::new(registers.orig_rax as usize) else {
            return Ok(false); // no such system call: a restart
        };
        let count = self.counts.entry((index, name)).or_default();
        *count += 1;
        let call = Call {
            program: self.program,
            task: index,
            name,
            nth: *count,
        };
        let can_fail = plan::can_fail(name, registers.rsi, registers.rdx);
        self.calls.push(Seen { call, can_fail });
        let Some(plan) = self.plan.filter(|plan| plan.call == call) else {
            return Ok(false);
        };
        match plan.fault {
            Fault::Kill => self.send(task, Signal::SIGKILL)?,
            Fault::Stop | Fault::StopAlone => self.send(task, Signal::SIGSTOP)?,
            Fault::Term => self.send(task, Signal::SIGTERM)?,
            // It closes also where it fails.
            Fault::Error(errno) if name == Sysno::close => {
                self.at_exit = Some((task, errno));
                return Ok(false);
            }
            Fault::Error(errno) => self.fail(task, registers, errno)?,
        }
        Ok(true)
    }

    fn process(&self, task: Pid) -> Pid {
        match self.program {
            Program::Run => task,
            Program::Daemon => self.leader,
        }
    }

    fn send(&self, task: Pid, signal: Signal) -> Result<(), Errno> {
        kill(self.process(task), signal)?;
        self.strike(task);
        Ok(())
    }

    /// Makes a call fail: at its entry, the kernel then makes none and keeps the result.
    fn fail(
        &self,
        task: Pid,
        mut registers: libc::user_regs_struct,
        errno: Errno,
    ) -> Result<(), Errno> {
        registers.orig_rax = u64::MAX;
        registers.rax = (-(errno as i64)) as u64;
        ptrace::setregs(task, registers)?;
        self.strike(task);
        Ok(())
    }

    fn strike(&self, task: Pid) {
        let process = self.process(task).as_raw();
        let first = self.struck.set(process.try_into().expect("a pid"));
        first.expect("one fault");
    }
}

//! Whole processes from start to end: `pst run`, `pst status`, the daemon's start, and the programs
//! that they are compared to.

use std::ffi::OsStr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::clients::{Server, Session, while_watched};
use crate::rig::{Job, Rig, children, signal, tool};
use crate::table::{Row, Samples, kibibytes, milliseconds};

const RUNS: usize = 300;
/// Runs after a rest: fewer, since each takes two rests.
const RESTED_RUNS: usize = 40;
const REST: Duration = Duration::from_secs(1);
const STATUSES: usize = 60;
const STARTS: usize = 40;
/// A little less than the daemon's limit.
const CROWD: usize = 1000;
/// Sessions and watchers, together a little less than the limit.
const WATCHED_CROWD: usize = 700;
const WATCHERS: usize = 256;
const WATCHED_GRANTS: usize = 40;

/// Measures `pst run -q -- true`: after a rest, back to back, and while another session holds the
/// storage. `by_hand` is a storage without a daemon, for the programs that switch it themselves.
pub fn runs(rig: &Rig, by_hand: &Rig) -> Vec<Row> {
    let [mut rested, mut rested_floor] = [(); 2].map(|()| Samples::default());
    let [mut run, mut shell, mut floor, mut held, mut bare] = [(); 5].map(|()| Samples::default());
    let other = by_hand.mount();
    let other = other.to_str().expect("UTF-8");
    let mount = rig.mount();
    let at = mount.to_str().expect("UTF-8");
    let script = format!("mount -o remount,rw {other} && true; mount -o remount,ro {other}");
    let floor_program = compile_floor(rig.dir());
    let own = std::env::current_exe().expect("this binary");
    let run_floor = || whole(rig.command(&floor_program).args([other, "true"]));
    for _ in 0..RESTED_RUNS {
        std::thread::sleep(REST);
        rested_floor.push_time(run_floor());
        std::thread::sleep(REST);
        rested.push_time(whole(&mut pst_run(rig)));
    }
    for _ in 0..RUNS {
        run.push_time(whole(&mut pst_run(rig)));
        shell.push_time(whole(rig.command("/bin/sh").args(["-c", &script])));
        // The daemon handles the shell's change of the mounts while the floor runs.
        floor.push_time(run_floor());
    }
    let holder = Server::of(rig).open();
    for _ in 0..RUNS {
        held.push_time(whole(&mut pst_run(rig)));
        bare.push_time(whole(rig.command(&own).args(["bare", at, "true"])));
    }
    holder.close();
    let row = |name: &str, what: &Samples, other: &str, to: &Samples, most: f64| {
        let ratio = what.median() / to.median();
        Row::new(name)
            .rounds(what.count())
            .measured(milliseconds(what.median()))
            .reference(format!("{other} {}", milliseconds(to.median())))
            .ratio(ratio)
            .target(&format!("<= {most} x"), ratio <= most)
    };
    vec![
        row(
            "pst run -q -- true after 1 s of rest, storage ro before and after",
            &rested,
            "floor",
            &rested_floor,
            1.15,
        ),
        row("  the same, back to back", &run, "floor", &floor, 1.7),
        row("  the same, back to back", &run, "shell", &shell, 0.75),
        row(
            "  the same while another session holds it rw",
            &held,
            "bare + syncfs",
            &bare,
            1.5,
        ),
    ]
}

/// Runs `bench bare MOUNT COMMAND`: a program about as large as `pst` that forks, execs, waits and
/// syncs once.
pub fn be_bare(mut words: impl Iterator<Item = std::ffi::OsString>) {
    let mount = words.next().expect("a mount point");
    let command = words.next().expect("a command");
    let command = std::ffi::CString::new(command.into_encoded_bytes()).expect("no NUL");
    let arguments = [command.as_ptr(), std::ptr::null()];
    let mut status = 0;
    // SAFETY: there is one thread; the arguments end in null and live; the status is a live int.
    unsafe {
        let pid = libc::fork();
        assert!(pid >= 0, "fork");
        if pid == 0 {
            libc::execvp(command.as_ptr(), arguments.as_ptr());
            libc::_exit(127);
        }
        assert_eq!(libc::waitpid(pid, &mut status, 0), pid, "waitpid");
    }
    let root = std::fs::File::open(mount).expect("the storage");
    // SAFETY: takes a descriptor, which is open.
    let synced = unsafe { libc::syncfs(std::os::fd::AsRawFd::as_raw_fd(&root)) };
    std::process::exit(i32::from(status != 0 || synced != 0));
}

fn pst_run(rig: &Rig) -> Command {
    let mut command = rig.pst(["run", "-q", "--", "true"]);
    command.current_dir("/");
    command
}

/// The time to start, run and reap a command, which must succeed.
fn whole(command: &mut Command) -> Duration {
    let null = Stdio::null;
    command.stdin(null()).stdout(null());
    let start = Instant::now();
    let status = command.spawn().expect("spawn").wait().expect("wait");
    let took = start.elapsed();
    assert!(status.success(), "{command:?}: {status}");
    took
}

fn compile_floor(dir: &Path) -> PathBuf {
    let program = dir.join("floor");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/floor.c");
    tool(Command::new("cc").args([
        OsStr::new("-O2"),
        "-Wall".as_ref(),
        "-o".as_ref(),
        program.as_ref(),
        source.as_ref(),
    ]));
    program
}

/// Measures `pst status`, the wait for a grant and the daemon's memory, with one session and with many.
pub fn crowds(rig: &Rig) -> Vec<Row> {
    let server = Server::of(rig);
    let [
        mut status_few,
        mut status_many,
        mut grant_few,
        mut grant_many,
    ] = [(); 4].map(|()| Samples::default());
    let mut resident = Vec::new();
    for _ in 0..2 {
        let one = server.open();
        statuses(rig, &mut status_few);
        grants(&server, &mut grant_few);
        let before = settled_memory(rig.daemon_pid());
        let crowd: Vec<Session> = (1..CROWD).map(|_| server.open()).collect();
        resident.push((before, settled_memory(rig.daemon_pid())));
        statuses(rig, &mut status_many);
        grants(&server, &mut grant_many);
        drop(crowd);
        one.close();
    }
    let left = settled_memory(rig.daemon_pid()).saturating_sub(resident[0].0) as f64;
    let (before, after) = resident[0];
    let each = after.saturating_sub(before) as f64 / (CROWD - 1) as f64;
    let back = 1.0 - left / (after - before) as f64;
    let status = |name: &str, what: &Samples, most: f64| {
        Row::new(name)
            .rounds(what.count())
            .measured(milliseconds(what.median()))
            .target(&format!("<= {most} ms"), what.median() <= most)
    };
    vec![
        status("pst status with 1 session", &status_few, 2.5),
        status("pst status with 1,000 sessions", &status_many, 20.0),
        Row::new("time to a grant with 1,000 sessions open")
            .rounds(grant_many.count())
            .measured(format!("{:.3} ms", grant_many.median()))
            .reference(format!("with 1: {:.3} ms", grant_few.median()))
            .ratio(grant_many.median() / grant_few.median()),
        watched_grant(&server),
        Row::new("daemon's memory per open session, of 1,000")
            .measured(kibibytes(each))
            .target("<= 4 KiB", each <= 4.0),
        Row::new("  of that given back when they end")
            .measured(format!("{:.0} %", back * 100.0))
            .reference(format!("{left:.0} KiB stay")),
    ]
}

/// Measures the wait for a grant with many sessions and many watchers that read; each grant is a
/// change that all of them are sent.
fn watched_grant(server: &Server) -> Row {
    let crowd: Vec<Session> = (0..WATCHED_CROWD).map(|_| server.open()).collect();
    let mut waits = Samples::default();
    while_watched(server, WATCHERS, || {
        for _ in 0..WATCHED_GRANTS {
            let start = Instant::now();
            let session = server.open();
            waits.push_time(start.elapsed());
            // Into the middle of the watchers' next update.
            std::thread::sleep(Duration::from_millis(130));
            drop(session);
        }
    });
    drop(crowd);
    let longest = waits.quantile(1.0);
    Row::new("longest wait for a grant, 700 sessions and 256 watchers")
        .rounds(waits.count())
        .measured(milliseconds(longest))
        .reference(format!("median {}", milliseconds(waits.median())))
        .target("<= 500 ms", longest <= 500.0)
}

fn statuses(rig: &Rig, into: &mut Samples) {
    for _ in 0..STATUSES / 2 {
        into.push_time(whole(&mut rig.pst(["status", "--json"])));
    }
}

fn grants(server: &Server, into: &mut Samples) {
    for _ in 0..1000 {
        let start = Instant::now();
        let session = server.open();
        into.push_time(start.elapsed());
        drop(session);
    }
}

/// The resident memory in KiB, once it no longer changes.
fn settled_memory(pid: u32) -> u64 {
    let mut last = field(pid, "status", "VmRSS:");
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let now = field(pid, "status", "VmRSS:");
        if now == last {
            return now;
        }
        last = now;
    }
}

/// A field in KiB of a file in `/proc/PID`.
fn field(pid: u32, file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).expect("/proc");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.unwrap_or_else(|| panic!("no {name}")).trim();
    value.trim_end_matches(" kB").parse().expect("a number")
}

/// Measures the daemon's memory, idle after a session.
pub fn idle_memory(rig: &Rig) -> Row {
    rig.sh("echo x > $KVMD_PST_DATA/file").must(0);
    let resident = settled_memory(rig.daemon_pid()) as f64;
    Row::new("daemon's resident memory, idle")
        .measured(format!("{:.2} MiB", resident / 1024.0))
        .target("<= 3.2 MiB", resident <= 3.2 * 1024.0)
}

/// Measures the memory of both processes of `pst run`: private pages and those shared between them.
pub fn run_memory(rig: &Rig) -> Row {
    let session: Job = rig.session();
    let supervisor = children(session.pid())[0];
    let own = |pid: u32| {
        let of = |name| field(pid, "smaps_rollup", name);
        of("Pss_Anon:") + of("Private_Clean:")
    };
    let all = own(session.pid()) + own(supervisor);
    session.end().must(0);
    Row::new("pst run's own memory, both processes").measured(format!("{all} KiB"))
}

/// Measures the time from the daemon's start to READY, with a prepared storage and no daemon running.
pub fn starts(rig: &Rig) -> Row {
    let path = rig.dir().join("ready.sock");
    let socket = UnixDatagram::bind(&path).expect("notify socket");
    let mut times = Samples::default();
    for _ in 0..STARTS {
        let mut command = rig.daemon_command();
        command.env("NOTIFY_SOCKET", &path).stderr(Stdio::null());
        let start = Instant::now();
        let mut daemon = command.spawn().expect("spawn");
        await_notice(&socket, "READY=1");
        times.push_time(start.elapsed());
        signal(daemon.id(), "TERM");
        assert!(daemon.wait().expect("wait").success());
    }
    Row::new("daemon: start to READY, storage prepared")
        .rounds(STARTS)
        .measured(milliseconds(times.median()))
        .target("<= 5 ms", times.median() <= 5.0)
}

fn await_notice(socket: &UnixDatagram, line: &str) {
    let mut buffer = [0; 4096];
    loop {
        let count = socket.recv(&mut buffer).expect("recv");
        let text = String::from_utf8_lossy(&buffer[..count]);
        if text.lines().any(|told| told == line) {
            return;
        }
    }
}

//! P8: obstacles to `prepare` and to the daemon's start, in the storage and beside the socket. Nothing
//! outside the storage changes, and one line names the problem.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use pst::config::Config;
use pst::storage::directories::{self, Owner};

use crate::clients::attack;
use crate::rig::{Fs, MEMBER, OUTSIDER, Outcome, Rig, RunToEnd, Setup};
use crate::{needs_mounts, needs_root};

/// Files and directories outside the storage, and their attributes, which must not change.
struct Outside {
    paths: Vec<PathBuf>,
    before: Vec<(u32, u32, u32, i64, i64, u64)>,
}

impl Outside {
    fn new(rig: &Rig) -> Outside {
        let directory = rig.dir().join("outside");
        fs::create_dir(&directory).expect("directory");
        let file = rig.dir().join("file");
        fs::write(&file, "precious").expect("file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("chmod");
        let inner = directory.join("inner");
        fs::create_dir(&inner).expect("directory");
        let mut outside = Outside {
            paths: vec![directory, file, inner],
            before: Vec::new(),
        };
        outside.before = outside.look();
        outside
    }

    fn file(&self) -> &Path {
        &self.paths[1]
    }

    fn look(&self) -> Vec<(u32, u32, u32, i64, i64, u64)> {
        let looks = self.paths.iter().map(|path| {
            let found = fs::symlink_metadata(path).expect("it is there");
            let changed = (found.ctime(), found.ctime_nsec());
            (
                found.uid(),
                found.gid(),
                found.mode(),
                changed.0,
                changed.1,
                found.size(),
            )
        });
        looks.collect()
    }

    #[track_caller]
    fn is_untouched(&self) {
        assert_eq!(self.look(), self.before);
    }
}

fn tool(program: &str, words: &[&Path]) {
    let done = Command::new(program).args(words).output().expect(program);
    assert!(done.status.success(), "{program} {words:?}: {done:?}");
}

#[track_caller]
fn refused(outcome: &Outcome, path: &Path) {
    let name = path.file_name().expect("a name").to_str().expect("UTF-8");
    assert_ne!(outcome.code(), 0, "{outcome:?}");
    let line = outcome.stderr.lines().last().expect("a line");
    assert!(line.contains(name) && line.contains("ERROR"), "{line}");
}

/// Things that a user with the right to write there can put in a path's place.
const OBSTACLES: [&str; 6] = [
    "a symlink to a directory",
    "a symlink to a file",
    "a FIFO",
    "a device",
    "a socket",
    "a file",
];

fn put(what: &str, at: &Path, outside: &Outside) {
    use std::os::unix::fs::symlink;
    match what {
        "a symlink to a directory" => symlink(&outside.paths[0], at).expect(what),
        "a symlink to a file" => symlink(outside.file(), at).expect(what),
        "a FIFO" => tool("mkfifo", &[at]),
        "a device" => tool(
            "mknod",
            &[at, Path::new("b"), Path::new("7"), Path::new("0")],
        ),
        "a socket" => drop(UnixListener::bind(at).expect(what)),
        _ => {
            fs::write(at, "").expect(what);
            std::os::unix::fs::chown(at, Some(OUTSIDER.uid), Some(OUTSIDER.gid)).expect(what);
        }
    }
}

#[test]
fn p8_what_stands_in_the_place_of_the_data_root_is_left_alone() {
    needs_root!("other users");
    let rig = Setup::new(Fs::Ext4).stopped().start();
    obstructed(&rig, &rig.data());
}

#[test]
fn p8_what_stands_in_the_place_of_the_storage_root_is_left_alone() {
    needs_root!("other users");
    let rig = Setup::new(Fs::Ext4).stopped().start();
    let root = rig.mount().join("below");
    let config = fs::read_to_string(rig.config()).expect("config");
    let table = format!("[storage]\nroot = {:?}\n", root.to_str().expect("UTF-8"));
    fs::write(rig.config(), config.replace("[storage]\n", &table)).expect("config");
    obstructed(&rig, &root);
}

/// Puts every obstacle in the place of `at`, the storage root or the data directory.
#[track_caller]
fn obstructed(rig: &Rig, at: &Path) {
    let outside = Outside::new(rig);
    for what in OBSTACLES {
        rig.remount_by_hand("rw");
        let _ = fs::remove_dir(at).or_else(|_| fs::remove_file(at));
        put(what, at, &outside);
        let before = fs::symlink_metadata(at).expect(what).ctime_nsec();
        rig.remount_by_hand("ro");
        refused(&rig.prepare(), at);
        let daemon = crate::rig::start(&mut rig.daemon_command());
        daemon.await_stderr("storage is ro");
        let denied = rig.sh("echo started").must(1);
        let path = at.to_str().expect("UTF-8");
        assert!(denied.stderr.contains(path), "{what}: {denied:?}");
        assert_eq!(denied.text(), "", "{what}");
        assert_eq!(rig.superblock(), "ro", "{what}");
        daemon.signal("TERM");
        daemon.end().must(0);
        let after = fs::symlink_metadata(at).expect(what).ctime_nsec();
        assert_eq!(before, after, "{what}");
        outside.is_untouched();
    }
}

#[test]
fn p8_what_is_swapped_for_the_data_root_meanwhile_is_left_alone() {
    needs_root!("other users");
    let rig = Setup::new(Fs::Ext4).stopped().start();
    let outside = Outside::new(&rig);
    rig.remount_by_hand("rw");
    let swapping = attack(&rig, Some(MEMBER), "swapping");
    swapping.await_stdout("begun");
    let place = Config::load(&rig.config(), true)
        .expect("config")
        .storage_location();
    let place = place.expect("place");
    let owner = Owner::of(&place).expect("owner");
    let mount = File::open(rig.mount()).expect("mount");
    let (mut mended, mut refused) = (0, 0);
    for _ in 0..3000 {
        match directories::repair(mount.as_fd(), &place, owner) {
            Ok(_) => mended += 1,
            Err(_) => refused += 1,
        }
        // Removed again by us: the member cannot remove what is ours.
        let _ = fs::remove_dir_all(rig.data()).or_else(|_| fs::remove_file(rig.data()));
        let _ = fs::remove_dir_all(rig.mount().join("own"));
    }
    drop(mount);
    for _ in 0..20 {
        rig.remount_by_hand("rw");
        let _ = fs::remove_dir_all(rig.data()).or_else(|_| fs::remove_file(rig.data()));
        let _ = fs::remove_dir_all(rig.mount().join("own"));
        let prepared = rig.prepare();
        assert!(matches!(prepared.code(), 0 | 1), "{prepared:?}");
    }
    swapping.end().must(0);
    println!("mended {mended}, refused {refused}");
    assert!(
        mended > 0 && refused > 0,
        "there was no race: {mended}, {refused}"
    );
    outside.is_untouched();
    rig.remount_by_hand("rw");
    let _ = fs::remove_dir_all(rig.data()).or_else(|_| fs::remove_file(rig.data()));
    rig.remount_by_hand("ro");
    rig.prepare().must(0);
}

/// A rig that has a directory of its own in place of `/run/pst`, and the paths of both lock files.
fn with_locks() -> (Rig, [PathBuf; 2]) {
    let rig = Setup::new(Fs::Ext4).own_namespace().stopped().start();
    let locks = rig.dir().join("locks");
    fs::create_dir(&locks).expect("directory");
    let bind = rig
        .command("mount")
        .arg("--bind")
        .arg(&locks)
        .arg("/run/pst")
        .to_end();
    bind.must(0);
    let number = rig.device().trim_start_matches("/dev/loop");
    let of_device = locks.join(format!("pst-7-{number}.lock"));
    let of_socket = rig.run_dir().join("pst.sock.lock");
    (rig, [of_socket, of_device])
}

#[test]
fn p8_what_stands_in_the_place_of_the_socket_and_the_locks_is_left_alone() {
    needs_root!("other users");
    needs_mounts!();
    let (rig, [of_socket, of_device]) = with_locks();
    let outside = Outside::new(&rig);
    for at in [rig.socket(), of_socket, of_device] {
        for what in OBSTACLES {
            // A socket without a listener is left by a dead daemon and may be replaced.
            if what == "a socket" && at == rig.socket() {
                continue;
            }
            let _ = fs::remove_file(&at);
            put(what, &at, &outside);
            println!("{what} at {at:?}");
            refused(&rig.daemon_command().to_end(), &at);
            outside.is_untouched();
        }
        let _ = fs::remove_file(&at);
    }
}

#[test]
fn p8_a_file_of_roots_under_the_name_of_a_lock_is_not_written_to() {
    needs_root!("other users");
    needs_mounts!();
    let (rig, locks) = with_locks();
    let file = rig.dir().join("file");
    for at in locks {
        fs::write(&file, "precious").expect("file");
        let _ = fs::remove_file(&at);
        fs::hard_link(&file, &at).expect("link");
        refused(&rig.daemon_command().to_end(), &at);
        assert_eq!(fs::read_to_string(&file).expect("file"), "precious");
        assert_eq!(fs::metadata(&file).expect("file").uid(), 0);
        // With one name it may be a lock file, and stays as it is.
        fs::remove_file(&file).expect("remove");
        rig.prepare().must(0);
        assert_eq!(fs::read_to_string(&at).expect("file"), "precious");
        assert_eq!(fs::metadata(&at).expect("file").uid(), 0);
        fs::remove_file(&at).expect("remove");
    }
}

#[test]
fn p9_a_socket_at_which_nobody_is_let_in_does_not_stop_the_start() {
    needs_root!("other users");
    let rig = Setup::new(Fs::Ext4).stopped().start();
    let listener = UnixListener::bind(rig.socket()).expect("bind");
    // SAFETY: takes no pointer.
    unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&listener), 0) };
    let waiting = std::os::unix::net::UnixStream::connect(rig.socket()).expect("connect");
    refused(&rig.daemon_command().to_end(), &rig.socket());
    drop(waiting);
}

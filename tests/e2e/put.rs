//! P12: `pst put` stores a file, all or nothing.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::rig::{
    ACCESS_GROUP, MEMBER, Outcome, PRIMARY, Person, Rig, RunToEnd, alive, await_death, start, tool,
    wait_until,
};
use crate::{needs_root, needs_tool};

impl Rig {
    /// `pst put WORDS…` with this input, as root or somebody else.
    fn put(&self, who: Option<Person>, words: &[&str], input: &[u8]) -> Outcome {
        let source = self.dir().join("input");
        fs::write(&source, input).expect("input");
        let pst = self.bin("pst");
        let mut command = match who {
            Some(who) => self.command_as(who, pst),
            None => self.command(pst),
        };
        command.arg("put").args(words);
        command.stdin(fs::File::open(&source).expect("input"));
        command.to_end()
    }

    fn content(&self, file: &str) -> Vec<u8> {
        fs::read(self.data().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    /// Fails unless the storage is read-only, and no temporary file is on it.
    #[track_caller]
    fn must_be_clean(&self) {
        self.await_state("ro");
        assert_eq!(remains(&self.mount()), Vec::<PathBuf>::new());
    }
}

fn remains(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("list") {
        let entry = entry.expect("entry");
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(".pst-")) {
            found.push(entry.path());
        }
        if entry.file_type().expect("type").is_dir() {
            found.extend(remains(&entry.path()));
        }
    }
    found
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("stat").mode() & 0o7777
}

/// Fails unless it was refused with one line that has this text, and no INFO.
#[track_caller]
fn refused(outcome: Outcome, text: &str) {
    let outcome = outcome.must(1);
    assert!(
        outcome.one_line().contains(text),
        "no {text:?}: {outcome:?}"
    );
}

#[test]
fn p12_a_file_is_stored_with_its_mode_and_owner() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    let stored = rig
        .put(
            None,
            &["-m", "640", "-o", "64101:64199", "api.key"],
            b"secret",
        )
        .must(0);
    assert_eq!((stored.text().as_str(), stored.stderr.as_str()), ("", ""));
    let path = rig.data().join("api.key");
    let file = fs::metadata(&path).expect("stat");
    assert_eq!((file.uid(), file.gid(), mode(&path)), (64101, 64199, 0o640));
    assert_eq!(rig.content("api.key"), b"secret");
    // The old file's mode and owner stay, unless they are given.
    rig.put(None, &["api.key"], b"new").must(0);
    let file = fs::metadata(&path).expect("stat");
    assert_eq!((file.uid(), file.gid(), mode(&path)), (64101, 64199, 0o640));
    rig.put(
        None,
        &["-m600", "-o:0", path.to_str().expect("UTF-8")],
        b"newer",
    )
    .must(0);
    let file = fs::metadata(&path).expect("stat");
    assert_eq!((file.uid(), file.gid(), mode(&path)), (64101, 0, 0o600));
    assert_eq!(rig.content("api.key"), b"newer");
    rig.must_be_clean();
    let past = &rig.status()["past"];
    let commands: Vec<&str> = past
        .as_array()
        .expect("a list")
        .iter()
        .flat_map(|past| past["command"].as_str())
        .collect();
    assert!(commands.contains(&"pst put api.key"), "{commands:?}");
}

#[test]
fn p12_a_new_file_gets_the_callers_umask_and_the_directorys_group_and_default_acl() {
    needs_root!("a loop device");
    needs_tool!("setfacl");
    let rig = Rig::ext4();
    rig.sh(
        "cd $KVMD_PST_DATA; mkdir d a; chown :64199 d; chmod 2775 d; setfacl -d -m u:64102:rw a",
    )
    .must(0);
    let with_umask = |file: &str| {
        let script = format!("umask 027; exec pst put {file}");
        let put = rig
            .command("sh")
            .args(["-c", &script])
            .stdin(fs::File::open("/etc/hostname").expect("input"))
            .to_end();
        put.must(0);
        rig.data().join(file)
    };
    assert_eq!(mode(&with_umask("plain")), 0o640);
    let in_group = with_umask("d/file");
    assert_eq!(
        (
            mode(&in_group),
            fs::metadata(&in_group).expect("stat").gid()
        ),
        (0o640, 64199)
    );
    let acl = tool(
        Command::new("getfacl")
            .args(["-cpn"])
            .arg(with_umask("a/file")),
    );
    assert!(acl.contains("user:64102:rw-"), "{acl}");
    rig.put(None, &["-m", "600", "a/private"], b"x").must(0);
    assert_eq!(mode(&rig.data().join("a/private")), 0o600);
    rig.must_be_clean();
}

#[test]
fn p12_an_existing_file_keeps_its_acl_and_extended_attributes() {
    needs_root!("a loop device");
    needs_tool!("setfacl", "setfattr");
    let rig = Rig::ext4();
    rig.sh("cd $KVMD_PST_DATA; mkdir a; echo old >a/f; echo old >a/none; setfacl -m u:64102:r,m::rw a/f; \
            setfattr -n user.note -v kept a/f; setfattr -n trusted.t -v kept a/f; setfacl -d -m u:64103:rw a")
        .must(0);
    let describe = |name: &str| {
        let path = rig.data().join(name);
        let acl = tool(Command::new("getfacl").arg("-cpn").arg(&path));
        let attributes = tool(
            Command::new("getfattr")
                .args(["-d", "-m-", "--absolute-names"])
                .arg(&path),
        );
        (acl, attributes, mode(&path))
    };
    for name in ["a/f", "a/none"] {
        let before = describe(name);
        rig.put(None, &[name], b"new").must(0);
        assert_eq!(describe(name), before);
        assert_eq!(rig.content(name), b"new");
    }
    rig.must_be_clean();
}

#[test]
fn p12_an_empty_input_is_refused_before_a_session_opens() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    let sessions = rig.status()["totals"]["sessions"].clone();
    refused(
        rig.put(None, &["f"], b""),
        "the input is empty, so f is unchanged; pass --allow-empty",
    );
    assert_eq!(rig.status()["totals"]["sessions"], sessions);
    rig.put(None, &["--allow-empty", "f"], b"").must(0);
    assert_eq!(rig.content("f"), b"");
}

#[test]
fn p12_a_slow_input_does_not_keep_the_storage_writable_and_signals_end_the_wait() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    let mut put = rig.pst(["put", "f"]);
    let mut waiting = start(put.stdin(Stdio::piped()));
    wait_until("it reads", || {
        let call = fs::read_to_string(format!("/proc/{}/syscall", waiting.pid()));
        call.is_ok_and(|call| call.starts_with("0 "))
    });
    assert_eq!(rig.state(), "ro");
    assert!(waiting.is_running());
    waiting.signal("TERM");
    let pid = waiting.pid();
    await_death(pid);
    rig.must_be_clean();
}

#[test]
fn p12_large_inputs_are_stored_whole() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    for size in [(4 << 20) - 1, 4 << 20, (4 << 20) + 1, (9 << 20) + 5] {
        let content: Vec<u8> = (0..size).map(|at: u32| (at % 251) as u8).collect();
        rig.put(None, &["large"], &content).must(0);
        assert!(rig.content("large") == content, "{size} bytes differ");
        let source = rig.dir().join("input");
        rig.put(None, &["copy", source.to_str().expect("UTF-8")], &content)
            .must(0);
        assert!(rig.content("copy") == content, "{size} bytes differ");
    }
    rig.must_be_clean();
}

#[test]
fn p12_directories_are_made_on_request_and_removed_again_if_it_fails() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    refused(rig.put(None, &["a/b/f"], b"x"), "no such file or directory");
    rig.put(None, &["-p", "a/b/c/f"], b"x").must(0);
    assert_eq!(rig.content("a/b/c/f"), b"x");
    rig.put(None, &["-p", "a/b/c/f"], b"y").must(0);
    refused(
        rig.put(None, &["-p", "n/m/../../a/b"], b"x"),
        "is a directory",
    );
    assert!(!rig.data().join("n").exists());
    refused(
        rig.put(Some(MEMBER), &["-p", "-o", "0", "n/f"], b"x"),
        "cannot give",
    );
    assert!(!rig.data().join("n").exists());
    rig.must_be_clean();
}

#[test]
fn p12_what_is_not_a_file_below_the_data_directory_is_refused() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    rig.sh("cd $KVMD_PST_DATA; mkdir d; ln -s /etc/passwd absolute; ln -s ../../out out; ln -s d to-d; \
            ln -s /etc etc; mkfifo pipe")
        .must(0);
    for (file, message) in [
        ("", "the file's name is empty"),
        ("d", "is a directory"),
        ("to-d", "is a directory"),
        ("d/", "names a directory"),
        ("..", "names a directory"),
        ("d/..", "names a directory"),
        ("../x", "leaves the data directory"),
        ("d/../../x", "leaves the data directory"),
        ("etc/x", "leaves the data directory"),
        ("out", "leaves the data directory"),
        (
            "absolute",
            "is a symlink to the absolute path /etc/passwd; name the file itself",
        ),
        ("/etc/x", "is not below the data directory"),
        ("pipe", "is a named pipe"),
        ("d/f/g", "no such file or directory"),
    ] {
        refused(rig.put(None, &["--", file], b"x"), message);
    }
    let long = "n".repeat(256);
    refused(rig.put(None, &[&long], b"x"), "file name too long");
    rig.must_be_clean();
}

#[test]
fn p12_a_relative_symlink_is_followed_and_its_target_replaced() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    rig.sh("cd $KVMD_PST_DATA; mkdir d e; ln -s ../e/target d/link; ln -s d s")
        .must(0);
    for content in [b"one", b"two"] {
        rig.put(None, &["s/link"], content).must(0);
        assert_eq!(rig.content("e/target"), content);
        assert!(
            fs::symlink_metadata(rig.data().join("d/link"))
                .expect("stat")
                .is_symlink()
        );
    }
    rig.must_be_clean();
}

#[test]
fn p12_another_name_of_the_old_file_keeps_the_old_content() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    rig.sh("cd $KVMD_PST_DATA; echo old >f; ln f g").must(0);
    rig.put(None, &["f"], b"new").must(0);
    assert_eq!(
        (rig.content("f"), rig.content("g")),
        (b"new".to_vec(), b"old\n".to_vec())
    );
}

#[test]
fn p12_a_member_stores_own_files_and_is_told_which_right_is_missing_for_others() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    rig.put(Some(MEMBER), &["mine"], b"x").must(0);
    rig.put(Some(MEMBER), &["mine"], b"y").must(0);
    assert_eq!(
        fs::metadata(rig.data().join("mine")).expect("stat").uid(),
        MEMBER.uid
    );
    let group = ACCESS_GROUP.to_string();
    rig.put(Some(MEMBER), &["-o", &format!(":{group}"), "mine"], b"z")
        .must(0);
    rig.put(Some(MEMBER), &["-m", "4750", "own-program"], b"z")
        .must(0);
    assert_eq!(mode(&rig.data().join("own-program")), 0o4750);
    rig.put(None, &["-m", "644", "roots"], b"x").must(0);
    refused(
        rig.put(Some(MEMBER), &["roots"], b"y"),
        "belongs to user root, and its directory is sticky",
    );
    refused(
        rig.put(Some(PRIMARY), &["mine"], b"y"),
        "belongs to user 64101, and its directory is sticky",
    );
    refused(
        rig.put(Some(MEMBER), &["-o", "0", "new"], b"y"),
        "to user root: operation not permitted; only root may",
    );
    rig.sh("cd $KVMD_PST_DATA; mkdir -m 777 open; echo old >open/roots; mkdir closed")
        .must(0);
    refused(rig.put(Some(MEMBER), &["open/roots"], b"y"), "cannot give");
    rig.put(Some(MEMBER), &["-o", "64101:64101", "open/roots"], b"y")
        .must(0);
    refused(
        rig.put(Some(MEMBER), &["closed/f"], b"y"),
        "permission denied; see its permissions with `ls -ld",
    );
    assert_eq!(
        (rig.content("roots"), rig.content("mine")),
        (b"x".to_vec(), b"z".to_vec())
    );
    rig.must_be_clean();
}

#[test]
fn p12_a_lack_of_space_or_inodes_is_found_before_anything_is_written() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    rig.put(None, &["f"], b"old").must(0);
    let large = vec![1; 40 << 20];
    let denied = rig.put(None, &["f"], &large);
    let figures = format!("{} bytes (40.0 MiB) needed, ", 40 << 20);
    refused(denied, &figures);
    assert_eq!(rig.content("f"), b"old");
    let filled =
        rig.sh("mkdir $KVMD_PST_DATA/fill; cd $KVMD_PST_DATA/fill; seq 20000 | xargs touch");
    assert!(filled.stderr.contains("No space left"), "{filled:?}");
    refused(rig.put(None, &["f"], b"new"), "no inode is free");
    assert_eq!(rig.content("f"), b"old");
    rig.sh("rm -r $KVMD_PST_DATA/fill; head -c 100M /dev/urandom >$KVMD_PST_DATA/fill");
    refused(
        rig.put(Some(MEMBER), &["new"], b"new"),
        "3 bytes (3 B) needed, 0 bytes (0 B) free",
    );
    let full = rig.put(None, &["f"], b"new").must(1);
    let line = full.one_line();
    assert!(
        line.contains("0 bytes (0 B) free") || line.contains("no space left"),
        "{line}"
    );
    assert_eq!(rig.content("f"), b"old");
    rig.must_be_clean();
    rig.sh("rm $KVMD_PST_DATA/fill").must(0);
    rig.put(None, &["f"], b"new").must(0);
    rig.must_be_clean();
}

#[test]
fn p12_a_daemon_that_stops_leaves_the_old_file_or_the_new_one() {
    needs_root!("a loop device");
    let mut rig = Rig::ext4();
    let source = rig.dir().join("large");
    fs::write(&source, vec![9; 8 << 20]).expect("input");
    for _ in 0..5 {
        rig.put(None, &["f"], b"old").must(0);
        let job = start(rig.pst(["put", "f"]).arg(&source));
        wait_until("it is granted", || {
            rig.superblock() == "rw" || !alive(job.pid())
        });
        rig.stop_daemon();
        let ended = job.end();
        rig.start_daemon();
        rig.await_state("ro");
        let content = rig.content("f");
        let is_old = content == b"old";
        assert!(
            is_old || content.len() == 8 << 20,
            "{} bytes",
            content.len()
        );
        assert!(ended.code() != 0 || !is_old, "{ended:?}");
    }
    rig.put(None, &["f"], b"old").must(0);
    rig.must_be_clean();
}

/// Swaps two names as fast as possible.
const SWAP: &str = r#"
import ctypes, os
rename = ctypes.CDLL(None).renameat2
print("ready")
while not os.path.exists("stop"):
    rename(-100, b"mine/real", -100, b"mine/out", 2)
"#;

#[test]
fn p8_directories_that_a_member_swaps_with_symlinks_do_not_lead_root_out() {
    needs_root!("a loop device");
    needs_tool!("python3");
    let rig = Rig::ext4();
    let outside = rig.dir().join("outside");
    fs::create_dir(&outside).expect("outside");
    fs::write(outside.join("f"), "kept").expect("outside");
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o755)).expect("chmod");
    let swap = format!(
        "cd $KVMD_PST_DATA; mkdir -p mine/real/sub; ln -s {0} mine/out; ln -s {0}/f mine/real/link; \
         exec python3 -uc '{SWAP}'",
        outside.display()
    );
    let swapping = start(&mut rig.run_as(MEMBER, ["sh", "-c", &swap]));
    swapping.await_stdout("ready");
    let mut stored = 0;
    for at in 0..120 {
        let new = format!("mine/real/new{at}/f");
        let file = ["mine/real/f", "mine/real/sub/f", "mine/real/link", &new][at % 4];
        let ended = rig.put(None, &["-p", "-m", "600", file], b"secret");
        stored += usize::from(ended.code() == 0);
    }
    rig.sh("touch $KVMD_PST_DATA/stop").must(0);
    swapping.end().must(0);
    assert!(stored > 0, "no put was successful");
    assert_eq!(fs::read_to_string(outside.join("f")).expect("read"), "kept");
    let names = fs::read_dir(&outside).expect("list").count();
    assert_eq!(names, 1, "something was created outside");
    assert_eq!(remains(&outside), Vec::<PathBuf>::new());
    rig.must_be_clean();
}

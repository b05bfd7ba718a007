//! P8: who may open sessions, and what they may do.

use std::fs;

use crate::rig::{ACCESS_GROUP, MEMBER, OUTSIDER, PRIMARY, Rig, RunToEnd, Setup, start};
use crate::{needs_root, needs_tool};

#[test]
fn p8_members_of_the_group_write() {
    needs_root!("other users");
    let rig = Rig::ext4();
    for (who, name) in [(MEMBER, "supplementary"), (PRIMARY, "primary")] {
        let script = format!("echo x > $KVMD_PST_DATA/{name}; id -u");
        let ended = rig.run_as(who, ["sh", "-c", &script]).to_end().must(0);
        assert_eq!(ended.text(), who.uid.to_string());
        assert!(rig.data().join(name).exists());
    }
    rig.sh("echo x > $KVMD_PST_DATA/root").must(0);
}

/// Listens at $1 and never answers.
const FAKE_DAEMON: &str = "
import socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print('listening', flush=True)
time.sleep(600)
";

#[test]
fn p8_a_daemon_of_another_user_is_refused() {
    needs_root!("other users");
    needs_tool!("python3");
    let rig = Rig::any();
    let folder = rig.dir().join("fake");
    fs::create_dir(&folder).expect("a directory");
    std::os::unix::fs::chown(&folder, Some(OUTSIDER.uid), None).expect("chown");
    let socket = folder.join("sock");
    let mut fake = rig.command_as(OUTSIDER, "python3");
    let fake = start(fake.args(["-c", FAKE_DAEMON]).arg(&socket));
    fake.await_stdout("listening");
    let mut command = rig.pst(["run", "--socket"]);
    command.arg(&socket).args(["-q", "--", "echo", "started"]);
    let ended = command.to_end().must(1);
    assert_eq!(ended.text(), "");
    let expected = format!("denied: user {} (pid ", OUTSIDER.uid);
    assert!(ended.one_line().contains(&expected), "{ended:?}");
    fake.signal("KILL");
    fake.end();
}

/// Passes a socket like a service manager, but another user called listen(2).
const ACTIVATE: &str = "
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
os.seteuid(int(sys.argv[2]))
listener.listen()
os.seteuid(0)
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))
os.execvp(sys.argv[3], sys.argv[3:])
";

#[test]
fn p8_the_daemon_shows_its_own_user_at_the_service_managers_socket() {
    needs_root!("other users");
    needs_tool!("python3");
    let mut rig = Setup::any().stopped().start();
    let mut command = rig.command("python3");
    command.args(["-c", ACTIVATE]).arg(rig.socket());
    command.arg(OUTSIDER.uid.to_string());
    command.args(rig.daemon_words());
    rig.start_daemon_as(command);
    rig.sh("true").must(0);
}

#[test]
fn p8_an_outsider_is_told_which_group_is_needed() {
    needs_root!("other users");
    let rig = Setup::any().head("socket_mode = 0o666").start();
    let before = rig.kernel_remounts();
    let mut command = rig.command_as(OUTSIDER, rig.bin("pst"));
    let ended = command
        .args(["run", "-q", "--", "echo", "started"])
        .to_end()
        .must(1);
    assert_eq!(ended.text(), "");
    assert!(
        ended.one_line().contains(&ACCESS_GROUP.to_string()),
        "{ended:?}"
    );
    assert_eq!(
        rig.kernel_remounts(),
        before,
        "it was made writable for them"
    );
}

#[test]
fn p8_an_outsider_who_may_not_even_connect_is_told_the_same() {
    needs_root!("other users");
    let rig = Rig::ext4();
    let mut command = rig.command_as(OUTSIDER, rig.bin("pst"));
    let ended = command
        .args(["run", "-q", "--", "echo", "started"])
        .to_end()
        .must(1);
    assert_eq!(ended.text(), "");
    assert!(ended.one_line().contains("group"), "{ended:?}");
}

#[test]
fn p8_the_group_may_have_a_name() {
    needs_root!("other users");
    let groups = fs::read_to_string("/etc/group").expect("groups");
    // Any group but root's: its second line.
    let mut fields = groups.lines().nth(1).expect("a group").split(':');
    let (name, id) = (fields.next().expect("name"), fields.nth(1).expect("number"));
    let rig = Setup::any()
        .head(&format!("group = \"{name}\""))
        .head("socket_mode = 0o666")
        .start();
    let run = |groups: &str| {
        let mut command = rig.command("setpriv");
        command
            .args(["--reuid=64101", "--regid=64101", groups])
            .arg(rig.bin("pst"));
        command.args(["run", "-q", "--", "true"]).to_end()
    };
    run(&format!("--groups={id}")).must(0);
    let denied = run("--clear-groups").must(1);
    assert!(denied.one_line().contains(name), "{denied:?}");
}

#[test]
fn p8_the_socket_belongs_to_root_and_the_group() {
    use std::os::unix::fs::MetadataExt;
    needs_root!("other users");
    let rig = Rig::ext4();
    let socket = fs::metadata(rig.socket()).expect("socket");
    assert_eq!(
        (socket.mode() & 0o7777, socket.uid(), socket.gid()),
        (0o660, 0, ACCESS_GROUP)
    );
}

#[test]
fn p8_members_do_not_remove_each_others_files() {
    use std::os::unix::fs::MetadataExt;
    needs_root!("other users");
    let rig = Rig::ext4();
    rig.run_as(MEMBER, ["sh", "-c", "echo x > $KVMD_PST_DATA/mine"])
        .to_end()
        .must(0);
    let remove = rig
        .run_as(PRIMARY, ["sh", "-c", "rm -f $KVMD_PST_DATA/mine"])
        .to_end();
    assert_ne!(remove.code(), 0);
    for root in [rig.mount(), rig.data()] {
        let found = fs::metadata(&root).expect("root");
        assert_eq!(
            (found.mode() & 0o7777, found.uid(), found.gid()),
            (0o1775, 64110, ACCESS_GROUP),
            "{root:?}"
        );
    }
}

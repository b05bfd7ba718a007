//! P3 and P8: why there is no session, and that nothing is started without one.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use pst::sys::current;
use pst::wire::{ClientMessage, CloseResult, DaemonMessage, DenyReason, VERSION};

use crate::codes::{code, finish, is_refused};
use crate::rig::Rig;

#[test]
fn p7_no_daemon_is_one_line_and_1() {
    let rig = Rig::new();
    let mut command = rig.run(&["true"]);
    command.env("PST_SOCKET", rig.folder.join("no-socket"));
    let output = command.output().unwrap();
    is_refused(
        &output,
        "no such file or directory; start it with `systemctl restart pst.socket pst.service`",
    );
    // A socket that a dead daemon left.
    let left = rig.folder.join("left");
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    let mut command = rig.run(&["true"]);
    command.env("PST_SOCKET", left);
    is_refused(
        &command.output().unwrap(),
        "connection refused; see why it ended with `systemctl status pst`",
    );
    let mut command = rig.run(&["true"]);
    command.env("PST_SOCKET", rig.data());
    is_refused(
        &command.output().unwrap(),
        "not a socket: pass the right one with --socket",
    );
    let mut command = rig.run(&["true"]);
    command.env("PST_SOCKET", format!("/{}", "x".repeat(108)));
    is_refused(
        &command.output().unwrap(),
        "file name too long; a socket's path has",
    );
}

#[test]
fn p8_who_may_not_open_the_socket_is_told_the_group() {
    needs_root!("other users");
    needs_mounts!();
    let rig = Rig::new();
    fs::set_permissions(rig.socket(), fs::Permissions::from_mode(0o660)).unwrap();
    // Where the binary is, others may not look; a shell that was root has it open.
    let script = "exec 9<$PST; exec setpriv --reuid 65534 --regid 65534 --clear-groups /proc/self/fd/9 run true";
    let output = rig.bash(script).output().unwrap();
    is_refused(&output, "members of the group root");
    is_refused(
        &output,
        "; ask an administrator to run `usermod -aG root nobody`, then log in again",
    );
    // It has become a member since.
    fs::write(rig.folder.join("group"), "root:x:0:games,nobody\n").unwrap();
    let script = format!("mount --bind $F/group /etc/group; {script}");
    let mut command = rig.command("unshare");
    let output = command
        .args(["-m", "bash", "-c", &script])
        .output()
        .unwrap();
    is_refused(
        &output,
        "group root are; you joined the group after this login: log in again",
    );
    fs::set_permissions(&rig.folder, fs::Permissions::from_mode(0o700)).unwrap();
    let output = rig.bash("exec 9<$PST; exec setpriv --reuid 65534 --regid 65534 --clear-groups /proc/self/fd/9 run true").output().unwrap();
    is_refused(
        &output,
        "permission denied; see the permissions with `namei -l /",
    );
}

#[test]
fn the_daemon_learns_the_command_before_anything_else() {
    let rig = Rig::new();
    for option in [None, Some("--need=5M")] {
        let mut command = rig.command(env!("CARGO_BIN_EXE_pst"));
        command.arg("run").args(option).args(["--", "true", "x"]);
        let child = command.spawn().unwrap();
        let client = rig.accept();
        assert_eq!(client.command, b"true x");
        drop(client);
        assert_eq!(code(&finish(child)), Some(1));
    }
}

#[test]
fn a_need_that_is_not_met_closes_the_session_and_starts_no_command() {
    let rig = Rig::new();
    let mut command = rig.command(env!("CARGO_BIN_EXE_pst"));
    command.args(["run", "--need=17179869183G", "--", "touch"]);
    let child = command.arg(rig.folder.join("started")).spawn().unwrap();
    let mut client = rig.accept();
    client.grant(&rig);
    assert_eq!(client.next(), Some(ClientMessage::Close));
    client.close(CloseResult::Durable);
    let output = finish(child);
    is_refused(&output, "18446744072635809792 bytes (");
    let data = rig.data().display().to_string();
    is_refused(&output, &format!(" on {data}: see `df -h "));
    let root = current::effective_uid() == 0;
    is_refused(
        &output,
        if root {
            " free for root on"
        } else {
            " free for user "
        },
    );
    assert!(!rig.folder.join("started").exists());
}

#[test]
fn p3_without_a_grant_no_command_is_started() {
    let denied = DaemonMessage::Denied {
        version: VERSION,
        reason: DenyReason::Failed,
        text: "the card\x1b[31m is broken".into(),
    };
    let error = DaemonMessage::Error {
        version: VERSION,
        text: "bad frame".into(),
    };
    let stopping = DaemonMessage::Denied {
        version: VERSION,
        reason: DenyReason::Stopping,
        text: "it is stopping".into(),
    };
    let older = DaemonMessage::Denied {
        version: VERSION - 1,
        reason: DenyReason::Limit,
        text: String::new(),
    };
    let refused_by_older = DaemonMessage::Error {
        version: VERSION - 1,
        text: "it speaks something else".into(),
    };
    let closed = DaemonMessage::Closed {
        result: CloseResult::Durable,
        text: String::new(),
    };
    for (answer, text) in [
        (Some(stopping), "it is stopping; try again when"),
        (Some(older), "restart its daemon (`systemctl restart pst`)"),
        (Some(refused_by_older), "it speaks something else"),
        (Some(denied), r"the card\x1b[31m is broken"),
        (Some(error), "bad frame"),
        (Some(closed), "unexpected reply"),
        (None, "the daemon went away; see `systemctl status pst`"),
    ] {
        let rig = Rig::new();
        let child = rig.run(&["touch", "/proc/self/cwd/started"]);
        let child = { child }.current_dir(&rig.folder).spawn().unwrap();
        let mut client = rig.accept();
        if let Some(answer) = answer {
            client.send(&answer);
        }
        drop(client);
        is_refused(&finish(child), text);
        assert!(!rig.folder.join("started").exists());
    }
}

#[test]
fn p3_a_storage_that_is_not_seen_here_starts_no_command() {
    let rig = Rig::new();
    let device = fs::metadata(rig.data()).unwrap().dev();
    fs::write(rig.folder.join("file"), "").unwrap();
    let elsewhere = "is not mounted in this mount namespace, or something else is mounted over it: compare `findmnt";
    for (data, device, text) in [
        ("data", device + 1, elsewhere),
        ("none", device + 1, elsewhere),
        ("none/none", device + 1, elsewhere),
        ("file", device + 1, elsewhere),
        (
            "none",
            device,
            "is missing on it: it was removed, and is created again when all",
        ),
        (
            "none/none",
            device,
            "is missing on it: it was removed, and is created again when all",
        ),
        (
            "file",
            device,
            "is not a directory on it: have an administrator remove",
        ),
    ] {
        let data = rig.folder.join(data);
        let mut command = rig.run(&["touch", "started"]);
        let child = command.current_dir(&rig.folder).spawn().unwrap();
        let mut client = rig.accept();
        client.grant_as(&rig, data.as_os_str(), device);
        let output = finish(child);
        is_refused(&output, text);
        is_refused(
            &output,
            &format!("the storage was granted, but {} is ", data.display()),
        );
        assert_eq!(client.next(), None);
        assert!(!rig.folder.join("started").exists());
    }
}

#[test]
fn p3_a_storage_that_is_read_only_here_starts_no_command() {
    needs_namespaces!();
    let rig = Rig::new();
    let mut command = rig.command("unshare");
    command.args([
        "-rm",
        "sh",
        "-c",
        "mount --bind $F/data $F/data && mount -o remount,bind,ro $F/data && $PST run touch $F/started",
    ]);
    let child = command.spawn().unwrap();
    rig.accept().grant(&rig);
    is_refused(
        &finish(child),
        "is read-only in this mount namespace: restart this service",
    );
    assert!(!rig.folder.join("started").exists());
}

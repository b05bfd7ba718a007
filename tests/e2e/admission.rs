//! P8: who may open sessions, and what they may do.

use std::fs;

use crate::needs_root;
use crate::rig::{ACCESS_GROUP, MEMBER, OUTSIDER, PRIMARY, Rig, RunToEnd, Setup};

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

//! P4 and P7: a full storage is the command's business, not the storage's fault.

use crate::needs_root;
use crate::rig::{MEMBER, Person, Rig, RunToEnd, Setup, start, tool};

/// Runs `fill` in a session until there is no room; sessions go on.
fn assert_sessions_go_on(rig: &Rig, fill: &str) {
    let other = rig.session();
    let ended = rig.sh(&format!("cd $KVMD_PST_DATA; {fill}"));
    assert!(
        ended.stderr.contains("No space left") && ended.code() != 0,
        "it is not full: {ended:?}"
    );
    assert_eq!(rig.state(), "rw");
    other.end().must(0);
    assert_eq!((rig.state().as_str(), rig.superblock()), ("ro", "ro"));
    assert!(!rig.needs_recovery());
    rig.sh("true").must(0);
    rig.sh("exit 7").must(7);
    let text = rig.pst(["status"]).to_end().must(0).text();
    assert!(text.contains("FULL: no "), "{text}");
    let refused = rig.sh(
        "> $KVMD_PST_DATA/one-more && head -c 64K /dev/zero > $KVMD_PST_DATA/one-more || exit 9",
    );
    assert!(refused.must(9).stderr.contains("No space left"));
    assert_eq!((rig.state().as_str(), rig.superblock()), ("ro", "ro"));
    rig.sh("rm -r $KVMD_PST_DATA/fill*").must(0);
    rig.must_serve();
}

#[test]
fn p4_a_full_partition_is_the_commands_business() {
    needs_root!("a loop device");
    assert_sessions_go_on(&Rig::ext4(), "head -c 100M /dev/urandom > fill");
}

#[test]
fn p4_a_partition_without_inodes_is_the_commands_business() {
    needs_root!("a loop device");
    assert_sessions_go_on(&Rig::ext4(), "mkdir fill; cd fill; seq 20000 | xargs touch");
}

#[test]
fn p3_a_full_partition_without_a_data_root_denies_and_says_why() {
    needs_root!("a loop device");
    let mut rig = Rig::ext4();
    rig.must_serve();
    rig.sh("cd $KVMD_PST_DATA/..; rm -r data; head -c 100M /dev/urandom > fill; seq 20000 | xargs touch");
    rig.must_deny("no space left on device; as root stop the daemon, `mount -o");
    rig.await_superblock("ro");
    // As it says.
    rig.stop_daemon();
    let mut remount = rig.command("mount");
    tool(remount.args(["-o", "remount,rw"]).arg(rig.mount()));
    std::fs::remove_file(rig.mount().join("fill")).expect("remove");
    rig.prepare().must(0); // which the daemon's unit does at its start
    rig.start_daemon();
    rig.await_state("ro");
    rig.sh("rm -f $KVMD_PST_DATA/../[0-9]*").must(0);
    rig.must_serve();
}

/// What `df` would say: bytes free for root, and for others.
fn free(rig: &Rig) -> (u64, u64) {
    let said = tool(
        rig.command("stat")
            .args(["-f", "-c", "%S %f %a"])
            .arg(rig.mount()),
    );
    let numbers: Vec<u64> = said
        .split(' ')
        .map(|n| n.parse().expect("a number"))
        .collect();
    (numbers[0] * numbers[1], numbers[0] * numbers[2])
}

fn remounts(rig: &Rig) -> u64 {
    let status = rig.status();
    status["totals"]["remounts"].as_u64().expect("a number")
}

fn run_needing(rig: &Rig, who: Option<Person>, need: &str) -> crate::rig::Outcome {
    let program = rig.bin("kvmd-pstrun");
    let mut command = match who {
        Some(who) => rig.command_as(who, program),
        None => rig.command(program),
    };
    command
        .args(["-q", "--need", need, "--", "echo", "started"])
        .to_end()
}

#[test]
fn a_need_is_met_to_the_byte_or_denied_with_the_figures_before_the_command_is_started() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    rig.must_serve();
    let (root, others) = free(&rig);
    assert!(root > others, "nothing is kept back for root");
    for (who, whom, free) in [(None, "root", root), (Some(MEMBER), "user 641", others)] {
        for need in [(free + 1).to_string(), "1G".into()] {
            let before = remounts(&rig);
            let denied = run_needing(&rig, who, &need).must(1);
            assert_eq!(denied.text(), "", "the command was started");
            let line = denied.one_line();
            let data = rig.data();
            let figures = format!("{free} bytes (");
            assert!(
                line.contains("PST write is denied: ")
                    && line.contains(&figures)
                    && line.contains(&format!("free for {whom}"))
                    && line.contains(&format!(" on {}: see `df", data.display())),
                "{line}"
            );
            assert_eq!(remounts(&rig), before + 2, "not made writable just once");
            assert_eq!((rig.state().as_str(), rig.superblock()), ("ro", "ro"));
        }
        run_needing(&rig, who, &free.to_string()).must(0);
        run_needing(&rig, who, "0").must(0);
    }
}

#[test]
fn a_need_is_judged_by_what_is_mounted_when_it_would_be_granted() {
    needs_root!("loop devices");
    let rig = Rig::ext4();
    rig.must_serve();
    let need = free(&rig).1 / 4 * 3;
    let other = rig.make_device("other", 8);
    let before = rig.status();
    rig.signal_daemon("STOP");
    rig.umount(&[]);
    rig.mount_over(&["-o", "ro,nodev,nosuid,noexec,errors=remount-ro", &other]);
    rig.prepare().must(0);
    assert!(
        free(&rig).0 < need,
        "the other one is too large for this test"
    );
    let need = need.to_string();
    let early = start(&mut rig.pst(["run", "--need", &need, "--", "echo", "started"]));
    early.await_stderr("Opening");
    rig.signal_daemon("CONT");
    let denied = early.end().must(1);
    assert_eq!(denied.text(), "", "the command was started");
    assert!(denied.stderr.contains(" needed, "), "{denied:?}");
    rig.await_state("ro");
    let after = rig.status();
    let sessions = before["totals"]["sessions"].as_u64().expect("a number");
    assert_eq!(after["totals"]["sessions"], sessions + 1);
    for past in after["past"].as_array().expect("a list") {
        assert_ne!(past["ended"], "gone", "{after:#}");
    }
    rig.umount(&[]);
    rig.await_state("absent");
    rig.do_mount();
}

#[test]
fn a_need_is_looked_at_while_others_write_too() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    let other = rig.session_with("head -c 20M /dev/zero > $KVMD_PST_DATA/fill");
    run_needing(&rig, None, "5M").must(0);
    let denied = run_needing(&rig, None, "20M").must(1);
    assert!(
        denied
            .one_line()
            .contains("20971520 bytes (20.0 MiB) needed")
    );
    other.end().must(0);
}

#[test]
fn a_need_without_a_free_inode_is_denied() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    let filled = rig.sh("mkdir $KVMD_PST_DATA/fill; cd $KVMD_PST_DATA/fill; seq 20000 | xargs touch; stat -f -c %d .");
    assert!(
        filled.text() == "0" && filled.stderr.contains("No space left"),
        "{filled:?}"
    );
    let denied = run_needing(&rig, None, "1").must(1);
    assert!(
        denied.one_line().contains("no inode is free: see `df -i "),
        "{denied:?}"
    );
    rig.sh("rm -r $KVMD_PST_DATA/fill").must(0);
    run_needing(&rig, None, "1").must(0);
}

#[test]
fn a_need_does_not_hide_why_the_storage_is_denied() {
    needs_root!("a loop device");
    let rig = Setup::any().unmounted().start();
    let denied = run_needing(&rig, None, "1").must(1);
    assert!(
        denied.one_line().contains("nothing is mounted on"),
        "{denied:?}"
    );
}

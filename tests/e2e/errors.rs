//! P5: the kernel gives the storage up while it is in use.

use std::process::Command;

use crate::rig::{Fs, Rig, RunToEnd, Setup, promptly, start, tool, wait_until};
use crate::{needs_mounts, needs_root, needs_tool};

/// What holds after each of them: everybody is told, later ones too, and after
/// the repair it serves again.
#[track_caller]
fn assert_failed_and_mended(rig: &Rig, reason: &str) {
    promptly("it is logged", || rig.log().contains("storage is failed"));
    assert_eq!(rig.state(), "failed");
    // Until it was looked at again after its last sync, that sync's failure is the reason.
    promptly("its reason is known", || {
        let text = rig.status()["storage"]["reason"].to_string();
        text.contains(reason) && text.contains("e2fsck")
    });
    rig.pst(["status"]).to_end().must(1);
    rig.must_deny(reason);
    rig.must_deny(reason); // not only the first one
    rig.repair();
    rig.await_state("ro");
    rig.must_serve();
    assert!(!rig.needs_recovery());
}

#[test]
fn p5_an_ext4_error_ends_every_session_until_it_is_repaired() {
    needs_root!("ext4");
    let rig = Rig::ext4();
    let victims = [rig.victim(), rig.victim()];
    rig.trigger_fs_error();
    for victim in victims {
        victim.must_be_lost("shut the filesystem down");
    }
    assert_failed_and_mended(&rig, "shut the filesystem down");
}

#[test]
fn p5_an_ext4_error_while_idle_is_known_to_the_next_session() {
    needs_root!("ext4");
    let rig = Rig::ext4();
    rig.trigger_fs_error();
    // It may see the aborted journal before the kernel's word for the whole.
    assert_failed_and_mended(&rig, "unmount it, run");
}

#[test]
fn p5_a_filesystem_that_was_shut_down_while_idle_is_known_to_the_next_session() {
    needs_root!("ext4");
    needs_mounts!();
    needs_tool!("xfs_io");
    // Its own world, so that no other test's mounts make the daemon look.
    let rig = Setup::new(Fs::Ext4).own_world().start();
    rig.must_serve();
    rig.shut_down();
    rig.must_deny("unmount it, run");
    assert_failed_and_mended(&rig, "unmount it, run");
    // Nothing but the remount may tell where there is no journal to ask.
    rig.umount(&[]);
    let mut tune = Command::new("tune2fs");
    tool(tune.args(["-O", "^has_journal", rig.device()]));
    rig.do_mount();
    rig.prepare().must(0);
    rig.await_state("ro");
    rig.sh("mkfifo $KVMD_PST_DATA/fifo").must(0);
    rig.shut_down();
    let reason = match rig.shows_shutdown() {
        true => "shut the filesystem down (shutdown)",
        false => "cannot be made read-write",
    };
    for _ in 0..2 {
        rig.must_deny(reason);
        assert_eq!(rig.state(), "failed");
    }
    rig.repair();
    rig.must_serve();
    // Without a session it is known at the next look, where the kernel shows it. Who might have
    // written, and closes, causes one.
    rig.shut_down();
    if rig.shows_shutdown() {
        let fifo = rig.data().join("fifo");
        tool(
            rig.command("sh")
                .arg("-c")
                .arg(format!(": <>'{}'", fifo.display())),
        );
        rig.await_state("failed");
    }
    rig.repair();
}

#[test]
fn an_error_that_the_journal_survives_has_it_asked_once() {
    needs_root!("a look at another process's system calls");
    needs_tool!("strace");
    let rig = Rig::ext4();
    let session = rig.session();
    let mount = rig.mount();
    tool(
        Command::new("mount")
            .args(["-o", "remount,rw,errors=continue"])
            .arg(&mount),
    );
    let log = rig.dir().join("calls");
    let pid = rig.daemon_pid().to_string();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-e", "trace=ioctl,?open,openat", "-p", &pid, "-o"]);
    let tracer = start(strace.arg(&log));
    tracer.await_stderr("attached");
    let calls = || std::fs::read_to_string(&log).unwrap_or_default();
    rig.trigger_fs_error();
    // The number of EXT4_IOC_CHECKPOINT, by which the journal is asked, and written back.
    let asked =
        |calls: &str| calls.matches("0x2b, 0x4)").count() + calls.matches("CHECKPOINT").count();
    wait_until("it is asked", || asked(&calls()) > 0);
    // Each inspection reads this. What the error itself caused is over by then.
    let opened = "\"/proc/self/mountinfo\"";
    let looks = || calls().matches(opened).count();
    let before = looks();
    wait_until("it looks again and again", || looks() > before + 8);
    tracer.signal("INT");
    tracer.end();
    assert_eq!(asked(&calls()), 1, "{}", calls());
    assert_eq!(rig.state(), "rw");
    session.end().must(0);
}

#[test]
fn p5_a_journal_that_the_medium_refuses_ends_every_session_until_it_is_repaired() {
    needs_root!("ext4");
    let rig = Setup::new(Fs::Ext4).backed_by_ext4().start();
    rig.must_serve();
    let writer = "while :; do echo x >> $KVMD_PST_DATA/file; sync $KVMD_PST_DATA/file; done";
    let victims = [rig.victim(), rig.victim_with(writer)];
    rig.refuse_writes(true);
    wait_until("the kernel gives it up", || rig.is_given_up());
    for victim in victims {
        victim.must_be_lost("shut the filesystem down");
    }
    promptly("it is logged", || rig.log().contains("storage is failed"));
    rig.refuse_writes(false);
    // Either way to say it: the last sync failed too.
    assert_failed_and_mended(&rig, "mount it again");
}

#[test]
fn p5_a_filesystem_that_was_shut_down_ends_every_session_until_it_is_repaired() {
    needs_root!("ext4");
    needs_mounts!();
    needs_tool!("xfs_io");
    // Its own world: here the kernel tells nothing, and another test's mounts
    // must not make the daemon look.
    let rig = Setup::new(Fs::Ext4).own_world().start();
    let victims = [rig.victim(), rig.victim()];
    rig.shut_down();
    for victim in victims {
        victim.must_be_lost_at_a_look("shut the filesystem down");
    }
    assert_failed_and_mended(&rig, "shut the filesystem down");
}

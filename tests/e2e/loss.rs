//! P5 and P10: the storage goes away, or is kept from going back.

use crate::needs_root;
use crate::rig::{Rig, RunToEnd, start};

#[test]
fn p5_an_ext4_error_during_a_session_revokes_it() {
    needs_root!("ext4");
    let mut rig = Rig::ext4();
    rig.ends_anyhow();
    let session = start(&mut rig.run(["sh", "-c", "echo started; exec sleep 1000"]));
    session.await_stdout("started");
    rig.trigger_fs_error();
    let ended = session.end();
    assert_ne!(ended.code(), 0);
    assert!(ended.stderr.contains("ERROR"), "{ended:?}");
    assert_eq!(rig.state(), "failed");
    assert_eq!(rig.pst(["status"]).to_end().code(), 1);
    rig.sh("true").must(1);
}

#[test]
fn p10_a_leftover_writer_is_named_and_gone_it_goes_read_only() {
    needs_root!("a look at other processes' descriptors");
    let rig = Rig::ext4();
    // Outlives the command, with a file open for writing: opened before it is started.
    let ended = rig
        .sh("exec 3> $KVMD_PST_DATA/leftover; sleep 1000 & echo $!")
        .must(0);
    let pid: u64 = ended.text().parse().expect("a pid");
    rig.await_state("stuck");
    assert_eq!(rig.superblock(), "rw");
    let named = || {
        rig.status()["holders"]
            .as_array()
            .is_some_and(|list| !list.is_empty())
    };
    crate::rig::wait_until("it is named", named);
    let status = rig.status();
    let holder = &status["holders"][0];
    assert_eq!(holder["pid"], pid, "{status}");
    assert_eq!(holder.as_object().expect("an object").len(), 6, "{status}");
    assert_eq!(
        (&holder["kind"], &holder["uid"]),
        (&"process".into(), &0.into())
    );
    assert_eq!(holder["user"], "root", "{status}");
    assert!(
        holder["command"].as_str().expect("text").contains("sleep"),
        "{status}"
    );
    assert_eq!(
        holder["path"],
        rig.data().join("leftover").to_str().expect("UTF-8"),
        "{status}"
    );
    assert_eq!(rig.pst(["status"]).to_end().code(), 1);
    // Sessions are still served meanwhile.
    rig.sh("echo x > $KVMD_PST_DATA/other").must(0);
    crate::rig::signal(pid as u32, "KILL");
    rig.await_superblock("ro");
    rig.await_state("ro");
    assert!(!rig.needs_recovery());
}

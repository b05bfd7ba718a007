//! P4: the medium refuses data, and the sync finds it.

use std::fs;

use crate::needs_root;
use crate::rig::{Fs, Rig, Setup};

/// Unsynced data that the medium will have to take.
const WRITE: &str = "head -c 2M /dev/urandom > $KVMD_PST_DATA/$$";

/// Sessions that were open at the failed sync, and what comes after it.
fn assert_refused_and_mended(rig: &Rig, refuse: impl FnOnce(), heal: impl FnOnce()) {
    rig.must_serve();
    let writer = rig.session_with(WRITE);
    // Wrote nothing, but was open.
    let reader = rig.victim();
    refuse();
    let ended = writer.end();
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(ended.stderr.contains("ERROR"), "nobody was told: {ended:?}");
    reader.must_be_lost("to the card");
    rig.await_state("failed");
    rig.must_deny("mount it again");
    heal();
    // What was lost does not come back by that.
    rig.must_deny("mount it again");
    assert_eq!(rig.state(), "failed");
    rig.repair();
    rig.await_state("ro");
    rig.must_serve();
}

#[test]
fn p4_a_medium_without_room_fails_who_was_open_until_it_is_mounted_anew() {
    needs_root!("a loop device");
    let rig = Setup::new(Fs::Ext4).backed_by_tmpfs(12).start();
    let filler = rig.dir().join("backing/filler");
    let fill = || {
        let mut file = fs::File::create(&filler).expect("filler");
        std::io::copy(&mut std::io::repeat(1), &mut file).expect_err("a full tmpfs");
    };
    assert_refused_and_mended(&rig, fill, || fs::remove_file(&filler).expect("remove"));
}

#[test]
fn p4_a_medium_with_errors_fails_who_was_open_until_it_is_mounted_anew() {
    needs_root!("a loop device");
    let rig = Setup::new(Fs::Ext4).backed_by_ext4().start();
    assert_refused_and_mended(
        &rig,
        || rig.refuse_writes(true),
        || rig.refuse_writes(false),
    );
}

#[test]
fn p4_a_lone_session_on_a_medium_with_errors_returns_1() {
    needs_root!("a loop device");
    let rig = Setup::new(Fs::Ext4).backed_by_ext4().start();
    rig.must_serve();
    let session = rig.session_with(WRITE);
    rig.refuse_writes(true);
    let ended = session.end().must(1);
    assert!(ended.stderr.contains("ERROR"), "nobody was told: {ended:?}");
    rig.await_state("failed");
    rig.must_deny("mount it again");
    rig.refuse_writes(false);
    rig.repair();
    rig.await_state("ro");
    rig.must_serve();
}

//! P12: `pst run --atomic` while others are at the same tree: a member of the group who swaps directories with
//! symlinks, and a web server that reads.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::Path;
use std::process::Stdio;

use crate::needs_root;
use crate::rig::{MEMBER, Rig, RunToEnd, certbot_renewal, start, tool};

/// Transactions during the attack, each of which takes some ten milliseconds.
const ROUNDS: usize = 300;

/// All that can be seen of a tree, without access times.
fn look(rig: &Rig, tree: &Path) -> String {
    let format = "%p %y %m %U:%G %s %n %T+ %C+ %l\n";
    tool(rig.command("find").arg(tree).args(["-printf", format]))
}

#[test]
fn p12_a_member_who_swaps_directories_gains_nothing_against_root() {
    needs_root!("other users");
    let rig = Rig::ext4();
    let session = rig.session_with(
        "cd $KVMD_PST_DATA && mkdir -p top/tree/directory && cd top/tree &&
        for f in file directory/file directory/more; do echo inside >$f; done && chmod -R a+rwX ..",
    );
    // On the storage, too, so that nothing but its place protects it.
    let outside = rig.mount().join("outside");
    fs::create_dir_all(outside.join("tree/directory")).expect("outside");
    for name in ["secret", "file", "more", "tree/file"] {
        fs::write(outside.join(name), "SECRET\n").expect("outside");
    }
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(outside.join("secret"), mode).expect("chmod");
    let top = rig.data().join("top");
    symlink(&outside, top.join("out")).expect("symlink");
    for path in [top.join("tree"), top.join("tree/directory")] {
        chown(path, Some(MEMBER.uid), None).expect("chown");
    }
    let before = look(&rig, &outside);
    let script = rig.dir().join("swapper.py");
    fs::write(&script, include_str!("swapper.py")).expect("script");
    let mut attack = rig.command_as(MEMBER, "python3");
    attack
        .arg(&script)
        .arg(rig.data())
        .arg("top/tree")
        .arg(&outside);
    let attack = start(attack.stdin(Stdio::piped()));
    attack.await_stdout("begun");
    let mut codes = [0, 0];
    for round in 0..ROUNDS {
        let directory = ["top/tree", "top/tree/directory", "top"][round % 3];
        let mut command = rig.command(rig.bin("pst"));
        command.args([".atomic", "0", "0", directory, "true"]);
        let code = command.env("KVMD_PST_DATA", rig.data()).to_end().code();
        codes[usize::try_from(code).expect("0 or 1")] += 1;
        if round % 20 == 0 {
            must_be_safe(&rig, &outside, &before);
        }
    }
    attack.end().must(0);
    must_be_safe(&rig, &outside, &before);
    println!("replaced, refused: {codes:?}");
    assert!(
        codes[1] > 0,
        "the attack never met a transaction: {codes:?}"
    );
    let mut last = rig.command(rig.bin("pst"));
    last.args([".atomic", "0", "0", "top/tree", "true"]);
    last.env("KVMD_PST_DATA", rig.data()).to_end().must(0);
    session.end().must(0);
}

#[test]
fn p12_a_member_cannot_have_root_remove_roots_directories_as_remains() {
    needs_root!("other users");
    let rig = Rig::ext4();
    let name = ".pst-0123456789abcdef";
    let make = format!(
        "cd $KVMD_PST_DATA && mkdir -p M/R && echo secret >M/R/key && chown {} M",
        MEMBER.uid
    );
    let transactions = [
        ["put", "--allow-empty", "x"].as_slice(),
        &["put", "--allow-empty", "M/x"],
        &["put", "--allow-empty", "N/x"],
        &["run", "--atomic", "new", "--", "true"],
    ];
    for (rename, key) in [
        (format!("mv M {name}; mkdir M N"), format!("{name}/R/key")),
        (format!("mv M/R M/{name}; mkdir N"), format!("M/{name}/key")),
        (
            format!("mkdir N; mv M N/{name}; mkdir M"),
            format!("N/{name}/R/key"),
        ),
    ] {
        rig.sh(&format!("cd $KVMD_PST_DATA && rm -rf M N {name} && {make}"))
            .must(0);
        let script = format!("cd $KVMD_PST_DATA && {rename}");
        rig.run_as(MEMBER, ["sh", "-c", &script]).to_end().must(0);
        for words in transactions {
            let mut command = rig.pst(words);
            command.stdin(Stdio::null()).to_end().must(0);
            let found = fs::read_to_string(rig.data().join(&key));
            assert_eq!(
                found.ok().as_deref(),
                Some("secret\n"),
                "{rename} {words:?}"
            );
        }
    }
    rig.await_state("ro");
}

/// What a web server that starts now reads, which must be a pair: the renewal that made it.
#[track_caller]
fn served(rig: &Rig) -> String {
    loop {
        // It has the directory open, so both are from one tree.
        let live = fs::File::open(rig.data().join("certbot/live/example")).expect("live");
        let live = Path::new("/proc/self/fd").join(live.as_raw_fd().to_string());
        let read = |name| fs::read_to_string(live.join(name)).ok();
        if let (Some(cert), Some(key)) = (read("cert.pem"), read("privkey.pem")) {
            assert_eq!(cert, key, "no pair");
            return cert.trim_end().to_owned();
        }
        // That tree was just replaced and removed.
    }
}

#[test]
fn p12_a_web_server_sees_a_matching_pair_while_certbot_renews() {
    needs_root!("a loop device");
    let rig = Rig::ext4();
    let data = rig.data().display().to_string();
    let renew = |middle: &str| {
        let script = certbot_renewal(&data, middle);
        start(&mut rig.pst(["run", "--atomic", "certbot", "--", "sh", "-c", &script]))
    };
    renew("").end().must(0);
    assert_eq!(served(&rig), "1");
    for (middle, code, after) in [("", 0, "2"), ("kill -KILL $$", 137, "2"), ("", 0, "3")] {
        let mut renewal = renew(middle);
        while renewal.is_running() {
            served(&rig);
        }
        renewal.end().must(code);
        assert_eq!(served(&rig), after);
    }
    let config = fs::read_to_string(rig.data().join("certbot/renewal/example.conf"));
    assert_eq!(
        config.expect("config"),
        format!("archive_dir = {data}/certbot/archive/example\n")
    );
    rig.await_state("ro");
}

/// Fails if something outside the data directory has changed, or is in it now.
#[track_caller]
fn must_be_safe(rig: &Rig, outside: &Path, before: &str) {
    assert_eq!(look(rig, outside), before);
    let mut grep = rig.command("grep");
    grep.args(["-rl", "SECRET"]).arg(rig.data());
    let found = grep.to_end();
    assert_eq!(found.text().lines().next(), None, "copied in");
    let secret = fs::metadata(outside.join("secret")).expect("stat");
    assert_eq!((secret.nlink(), secret.mode() & 0o777), (1, 0o600));
}

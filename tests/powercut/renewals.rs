//! Certificates that are renewed in `pst run --atomic`: by the example of README.md, and in a tree as certbot's.

use crate::record::{Content, Entry, Record, Tree};
use crate::rig::{Rig, certbot_renewal};
use crate::sequences;
use crate::stage::Stage;
use crate::steps::committed;

const README: &str = include_str!("../../README.md");

/// The end of the example's command, and one that is killed when it has written the key alone.
const WRITES: &str = "-keyout key.pem -out cert.pem'";
const IS_KILLED: &str = "-keyout key.pem -out new.pem; kill -KILL $$; mv new.pem cert.pem'";

fn example() -> &'static str {
    let blocks = README.split("```sh\n").skip(1);
    let mut blocks = blocks.filter_map(|rest| rest.split("```").next());
    let block = blocks.find(|block| block.contains("--atomic"));
    block.expect("the example")
}

/// Renews each certificate twice, and once with a command that is killed in the middle.
pub fn record() -> (Rig, Record) {
    let mut stage = sequences::stage();
    stage.script("mkdir -p $KVMD_PST_DATA/system/tls $KVMD_PST_DATA/certbot");
    let killed = example().replace(WRITES, IS_KILLED);
    assert_ne!(killed, example());
    renew(&mut stage, "data/system/tls", example(), &killed);
    // The journal is committed while live holds one new link and one old link.
    let certbot = |data: &str, middle: &str| {
        let script = certbot_renewal(data, &format!("sync -f .; {middle}"));
        format!("pst run --atomic certbot -- sh -c '{script}'")
    };
    let data = stage.rig.data().display().to_string();
    let (whole, killed) = (certbot(&data, ""), certbot(&data, "kill -KILL $$"));
    renew(&mut stage, "data/certbot", &whole, &killed);
    stage.finish()
}

fn renew(stage: &mut Stage, directory: &str, whole: &str, killed: &str) {
    let killed = format!("{killed}\n[ $? = 137 ]");
    for (name, script) in [("first", whole), ("killed", &killed), ("second", whole)] {
        let mut command = stage.rig.command("bash");
        command.args(["-c", script]);
        let name = format!("{directory}, {name}");
        committed(stage, ".1", &name, directory, &mut command);
    }
}

/// Fails unless each renewal made a new pair, but for those that were killed.
pub fn must_be_pairs(record: &Record) {
    for swap in &record.swaps {
        let is_killed = swap.name.ends_with("killed");
        assert_eq!(swap.old == swap.new, is_killed, "{}", swap.name);
        match swap.directory.as_str() {
            "data/certbot" => assert_eq!(renewed(&swap.new, "cert"), renewed(&swap.new, "privkey")),
            tls => assert!(
                is_file(swap.new.get(&format!("{tls}/key.pem")))
                    && is_file(swap.new.get(&format!("{tls}/cert.pem")))
            ),
        }
    }
}

/// Which renewal a web server would serve.
fn renewed(tree: &Tree, name: &str) -> String {
    let link = tree.get(&format!("data/certbot/live/example/{name}.pem"));
    match link.and_then(|link| link.content.as_ref()) {
        Some(Content::Link(target)) => target.replace(name, ""),
        other => panic!("{name} is {other:?}"),
    }
}

fn is_file(entry: Option<&Entry>) -> bool {
    let content = entry.and_then(|entry| entry.content.as_ref());
    matches!(content, Some(Content::File(bytes)) if !bytes.is_empty())
}

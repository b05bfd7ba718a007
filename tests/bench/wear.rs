//! Wear: the sectors of 512 bytes that reach the device, counted by the kernel.

use std::fs;

use crate::clients::{Server, remove_pieces, write_alone, write_piece, write_together};
use crate::rig::Rig;
use crate::table::{Row, Samples};

const SESSIONS: usize = 100;
const ROUNDS: usize = 5;

/// Measures all figures of wear. Restarts the daemon.
pub fn rows(rig: &mut Rig) -> Vec<Row> {
    crate::restart_logging(rig);
    let mut rows = together(rig);
    rows.extend(sparing(rig));
    rows.push(boot(rig));
    rows
}

fn together(rig: &Rig) -> Vec<Row> {
    let (server, data) = (Server::of(rig), rig.data());
    let mut pairs = Samples::default();
    let [mut many, mut one] = [(); 2].map(|()| Samples::default());
    // The directory grows now and not while sectors are counted.
    write_alone(&server, &data, SESSIONS);
    for _ in 0..ROUNDS {
        remove_pieces(&server, &data, SESSIONS);
        one.push(sectors(rig, || write_alone(&server, &data, SESSIONS)));
        remove_pieces(&server, &data, SESSIONS);
        let before = remounts(rig);
        many.push(sectors(rig, || write_together(&server, &data, SESSIONS)));
        pairs.push((remounts(rig) - before) as f64 / 2.0);
    }
    let ratio = many.median() / one.median();
    vec![
        Row::new("100 overlapping sessions of 4 KiB: rw/ro pairs")
            .rounds(ROUNDS)
            .measured(format!("{}", pairs.median()))
            .target("1", pairs.quantile(1.0) == 1.0),
        Row::new("  sectors written")
            .rounds(ROUNDS)
            .measured(format!("{}", many.median()))
            .reference(format!("one session: {}", one.median()))
            .ratio(ratio)
            .target("<= 1.2 x", ratio <= 1.2),
    ]
}

/// Counts remounts in the daemon's log: the kernel logs at most ten in five seconds.
fn remounts(rig: &Rig) -> usize {
    let log = rig.log();
    let switches = [" MadeWritable(", " MadeReadOnly "];
    switches.iter().map(|word| log.matches(word).count()).sum()
}

fn sparing(rig: &Rig) -> Vec<Row> {
    let (server, data) = (Server::of(rig), rig.data());
    let [mut empty, mut reading] = [(); 2].map(|()| Samples::default());
    for round in 0..ROUNDS {
        empty.push(sectors(rig, || server.open().close()));
        let fresh = data.join(format!("fresh{round}"));
        let session = server.open();
        write_piece(&fresh);
        session.close();
        reading.push(sectors(rig, || {
            let session = server.open();
            fs::read(&fresh).expect("read");
            session.close();
        }));
    }
    let row = |name: &str, sectors: &Samples| {
        Row::new(name)
            .rounds(ROUNDS)
            .measured(format!("{} sectors", sectors.median()))
            .target("4 sectors", sectors.median() <= 4.0)
    };
    vec![
        row("an empty session", &empty),
        row("a session that only reads", &reading),
    ]
}

/// Mounts, prepares, starts the daemon and stops it, without a session.
fn boot(rig: &mut Rig) -> Row {
    rig.stop_daemon();
    rig.umount(&[]);
    let written = sectors(rig, || {
        rig.do_mount();
        rig.prepare().must(0);
    });
    let before = written_so_far(rig);
    rig.start_daemon();
    rig.await_state("ro");
    rig.stop_daemon();
    let written = written + written_so_far(rig) - before;
    rig.start_daemon();
    Row::new("a boot without a session")
        .rounds(1)
        .measured(format!("{written} sectors"))
        .target("0 sectors", written == 0.0)
}

/// The sectors written while `work` runs.
fn sectors(rig: &Rig, work: impl FnOnce()) -> f64 {
    let before = written_so_far(rig);
    work();
    written_so_far(rig) - before
}

fn written_so_far(rig: &Rig) -> f64 {
    let name = rig.device().trim_start_matches("/dev/");
    let stat = fs::read_to_string(format!("/sys/block/{name}/stat")).expect("stat");
    let field = stat.split_whitespace().nth(6).expect("a field");
    field.parse().expect("a number")
}

//! The attacks. Each reports when it has begun and goes on until the test closes its standard input.

use std::time::{Duration, Instant};

use pst::wire::{ClientMessage, DaemonMessage};
use serde_json::Value;

use crate::clients::{Client, begun, bytes, enough, hold, open, status};
use crate::descriptors;

pub fn play(attack: &str) {
    match attack {
        "measure" => return measure(),
        "honest minute" => return honest_minute(),
        "garbage" => garbage(),
        "half" => half(),
        "long frames" => long_frames(),
        "tiny frames" => tiny_frames(),
        "never reading" => never_reading(),
        "ten thousand" => ten_thousand(),
        "crowd" => crowd(),
        "vanishing" => vanishing(),
        "another version" => another_version(),
        "descriptors" => descriptors::send_many(),
        "lingering" => descriptors::send_lingering(),
        "lingering in sessions" => descriptors::send_lingering_in_sessions(),
        "out of turn" => out_of_turn(),
        "names" => names(),
        "swapping" => return swapping(),
        "unread statuses" => unread_statuses(),
        "blind watchers" => blind_watchers(),
        "deaf watchers" => deaf_watchers(),
        "reading watchers" => reading_watchers(),
        "storm" => storm(),
        "hiding" => descriptors::hide(),
        other => panic!("unknown attack {other:?}"),
    }
    hold();
}

/// No attack: a client that works while others attack. Prints how long its grants took.
fn measure() {
    begun();
    let mut times: Vec<u128> = (0..10)
        .map(|_| {
            let start = Instant::now();
            let client = granted(b"true");
            let took = start.elapsed().as_micros();
            client.finish();
            took
        })
        .collect();
    times.sort_unstable();
    println!("median {} most {}", times[5], times[9]);
}

/// No attack: a session every 100 ms for a minute.
fn honest_minute() {
    begun();
    let start = Instant::now();
    let mut times = Vec::new();
    while start.elapsed() < Duration::from_secs(60) {
        let opened = Instant::now();
        let client = granted(b"true");
        times.push(opened.elapsed());
        client.finish();
        std::thread::sleep(Duration::from_millis(100));
    }
    times.sort_unstable();
    let (count, most) = (times.len(), times.last());
    println!(
        "{count} sessions, granted after {:?}, at most {most:?}",
        times[count / 2]
    );
}

/// Calls `each` with 1, 2, 3… until the test has seen enough, at least once.
fn again_and_again(mut each: impl FnMut(u64)) {
    let mut seed = 1;
    loop {
        each(seed);
        if seed == 1 {
            begun();
        }
        if enough() {
            return;
        }
        seed += 1;
    }
}

/// Pseudo-random bytes (xorshift64), the same on each run.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn garbage() {
    again_and_again(|seed| {
        for bytes in [
            &b"GARBAGE\r\n\r\n"[..],
            b"\0PSX\0\0\0\0",
            b"\0PST\x00\x00\x00",
            b"\0PST\x01\x00\xee",
            &noise(seed, 9000),
            &[&b"\0PST"[..], &noise(seed, 9000)].concat(),
            &[&b"\0PST"[..], &noise(seed, 40)].concat(),
        ] {
            if let Some(client) = Client::connect() {
                client.raw(bytes);
                let _ = client.stream.shutdown(std::net::Shutdown::Write);
                client.drain();
            }
        }
    });
}

/// Sends half a frame and no more: the daemon disconnects the client after the time for a handshake.
fn half() {
    let open = bytes(&open(&[b'x'; 1024]));
    let clients: Vec<Client> = (0..200)
        .map(|i| {
            let client = Client::connect().expect("connect");
            let begin = [b"\0PST", &open[..open.len() / 2]].concat();
            assert!(client.raw(&begin[..i % (begin.len() + 1)]));
            client
        })
        .collect();
    begun();
    for client in clients {
        client.must_fail("5 s");
    }
    println!("all cut");
}

fn long_frames() {
    let frame = [&b"\xff\xff\x01"[..], &[b'x'; 65534]].concat();
    again_and_again(|_| {
        if let Some(client) = Client::greeted() {
            client.raw(&frame);
            client.must_fail("only 4096 are allowed");
        }
        // In a session, the longest frame that is allowed, never completed.
        if let Some(client) = Client::greeted() {
            client.open(b"long");
            client.raw(&[&b"\x00\x10\x01"[..], &[b'x'; 4094]].concat());
        }
    });
}

/// Sends a million of the shortest frames, and a frame byte by byte.
fn tiny_frames() {
    let many = b"\x01\x00\x02".repeat(1000);
    let mut count = 0;
    let mut told = false;
    while count < 1_000_000 {
        if let Some(client) = Client::greeted() {
            client.open(b"tiny");
            while client.raw(&many) {
                count += 1000;
            }
            count += 1000;
        }
        if let Some(client) = Client::greeted() {
            bytes(&open(b"in pieces"))
                .iter()
                .all(|byte| client.raw(&[*byte]));
        }
        if !std::mem::replace(&mut told, true) {
            begun();
        }
    }
    println!("a million");
}

/// Opens sessions with long commands, so that the status is long, and asks for it without reading.
fn never_reading() {
    let mut clients = Vec::new();
    for i in 0..250 {
        let client = Client::greeted().expect("connect");
        match i % 5 {
            0 | 1 => client.open(&[b'\x1b'; 1024]),
            2 | 3 => client.say(&status(i % 2 == 0)),
            _ => {
                client.open(&[b'x'; 1024]);
                client.raw(&[&b"\x00\x10\x01"[..], &[b'x'; 4094]].concat())
            }
        };
        clients.push(client);
    }
    begun();
    hold();
}

fn ten_thousand() {
    let mut clients: Vec<Client> = Vec::new();
    while clients.len() < 10_000 {
        if let Some(client) = Client::connect() {
            clients.push(client);
        }
    }
    begun();
    for client in &clients {
        client.raw(b"\0PST");
    }
    hold();
}

/// Takes as many connections as it gets.
fn crowd() {
    let mut clients: Vec<Client> = Vec::new();
    let mut refused = false;
    while !refused {
        // One that is refused may be gone before it has said a word.
        let Some(mut client) = Client::greeted() else {
            break;
        };
        client.say(&status(true));
        refused = matches!(client.next(), Some(DaemonMessage::Denied { .. }) | None);
        clients.push(client);
    }
    begun();
    hold();
}

fn vanishing() {
    again_and_again(|seed| {
        let client = Client::connect();
        let Some(client) = client else { return };
        match seed % 4 {
            0 => {}
            1 => {
                client.raw(b"\0PST");
            }
            2 => {
                client.raw(b"\0PST");
                client.open(b"gone");
            }
            _ => {
                client.raw(b"\0PST");
                client.say(&status(true));
            }
        }
    });
}

fn another_version() {
    again_and_again(|seed| {
        let version = [0, 1, 0x0201, u16::MAX][seed as usize % 4];
        let command = noise(seed, seed as usize % 100);
        for message in [
            ClientMessage::Open { version, command },
            ClientMessage::Status {
                version,
                watch: true,
            },
        ] {
            if let Some(client) = Client::greeted() {
                client.say(&message);
                client.must_fail("version");
            }
        }
    });
}

/// Sends valid messages in the wrong order. Outsiders are denied before that.
fn out_of_turn() {
    let (open, close) = (bytes(&open(b"x")), bytes(&ClientMessage::Close));
    let status = bytes(&status(false));
    let talks: [(&[&[u8]], &str); 6] = [
        (&[&close], "Close without a session"),
        (&[&open, &close], "Close without a session"),
        (&[&open, &open], "a second Open"),
        (&[&open, &status], "Status during a session"),
        (&[&status, &open], ""),
        (&[&close, &close, &open], "Close without a session"),
    ];
    again_and_again(|_| {
        for (talk, words) in &talks {
            if let Some(client) = Client::greeted() {
                client.raw(&talk.concat());
                if !words.is_empty() {
                    let last = client.rest().pop();
                    let fine = match &last {
                        Some(DaemonMessage::Error { text, .. }) => text.contains(words),
                        Some(DaemonMessage::Denied { .. }) | None => true,
                        // The session was granted before the rest was read.
                        Some(DaemonMessage::Closed { .. }) => true,
                        Some(_) => false,
                    };
                    assert!(fine, "{talk:?}: {last:?}");
                }
            }
        }
        // Two messages at once, after the grant.
        for twice in [[&close, &close], [&close, &open]] {
            let Some(mut client) = Client::greeted() else {
                continue;
            };
            client.raw(&open);
            if !matches!(client.next(), Some(DaemonMessage::Granted { .. })) {
                continue;
            }
            client.raw(&twice.map(|bytes| &bytes[..]).concat());
            let rest = client.rest();
            assert!(rest.len() <= 2, "{rest:?}");
        }
    });
}

pub const NAMES: [&[u8]; 6] = [
    b"\x1b[2J\x1b]0;owned\x07",
    b"a\npst: ERROR storage is failed\n",
    b"\xff\xfe\x80\r\x08\x7f",
    b"\xc2\x9b31m \xe2\x80\xae gnp.exe",
    b"\0\0\0",
    b"\xe2\x80\xa8\xc2\x85\xef\xbb\xbf",
];

/// Holds sessions open whose names would harm a terminal or a log.
fn names() {
    let clients: Vec<Client> = NAMES
        .iter()
        .map(|name| {
            let mut client = Client::greeted().expect("connect");
            assert!(client.open(name));
            client.next();
            client
        })
        .collect();
    begun();
    hold();
    drop(clients);
}

/// Replaces the data directory by one thing after another, as fast as it can.
fn swapping() {
    let mount = std::path::PathBuf::from(std::env::var_os("PST_MOUNT").expect("PST_MOUNT"));
    let (data, own) = (mount.join("data"), mount.join("own"));
    let outside = mount.with_file_name("outside");
    let _ = std::fs::create_dir(&own);
    begun();
    while !enough() {
        // Each step may fail: the test changes the same path.
        let _ = std::os::unix::fs::symlink(&outside, &data);
        let _ = std::fs::remove_file(&data);
        let _ = std::fs::rename(&own, &data);
        let _ = std::fs::rename(&data, &own);
        let _ = std::os::unix::fs::symlink("own", &data);
        let _ = std::fs::remove_file(&data);
        let _ = std::fs::write(&data, "");
        let _ = std::fs::remove_file(&data);
        let _ = std::fs::create_dir(&own);
    }
    println!("done");
}

/// Asks for a status on as many connections as the daemon accepts and reads none of them.
fn unread_statuses() {
    let clients = askers(1000, false);
    begun();
    for client in &clients {
        assert!(client.awaits(0), "the daemon did not disconnect a client");
    }
    println!("all cut");
}

/// Clients that ask for the status, with or without watching it.
fn askers(count: usize, watch: bool) -> Vec<Client> {
    let ask = |_| {
        let client = Client::greeted().expect("connect");
        client.say(&status(watch));
        client
    };
    (0..count).map(ask).collect()
}

/// A thousand clients that watch a long status and never read, while sessions come and go.
fn deaf_watchers() {
    let holders: Vec<Client> = (0..8).map(|_| granted(&[b'\x1b'; 1024])).collect();
    let watchers = askers(1000, true);
    begun();
    for watcher in &watchers {
        assert!(watcher.awaits(libc::POLLIN), "the daemon sent nothing");
    }
    again_and_again(|round| {
        granted(b"short").finish();
        if round == 1000 {
            println!("a thousand sessions later");
        }
    });
    drop((holders, watchers));
}

/// Watchers that read all that they are sent, while 700 sessions are opened and end again. All of
/// them see the same sessions at last.
fn reading_watchers() {
    let mut watchers = askers(256, true);
    begun();
    let (sessions, seen) = watched(
        &mut watchers,
        || {
            let mut sessions = Vec::new();
            for hundred in 1..=7 {
                sessions.extend((0..100).map(|_| granted(b"one of many")));
                println!("{hundred}00 sessions");
            }
            sessions.push(granted(b"the new one"));
            println!("one more session");
            sessions
        },
        |document| {
            // Parsing each document would take too long without optimisation.
            if !document.contains("the new one") || document.matches("one of many").count() < 700 {
                return None;
            }
            let document: Value = serde_json::from_str(document).expect("JSON");
            let sessions = document["sessions"].as_array().expect("sessions");
            let ids = sessions.iter().map(|session| session["id"].as_u64());
            (sessions.len() == 701).then(|| ids.collect::<Vec<_>>())
        },
    );
    assert!(seen.iter().all(|ids| *ids == seen[0]), "{seen:?}");
    println!("all saw it");
    watched(
        &mut watchers,
        || drop(sessions),
        |document| {
            let ended = document.contains(r#""sessions":[]"#);
            (ended && document.contains(r#""state":"ro""#)).then_some(())
        },
    );
    println!("all saw the end");
}

/// Calls `change` while all these watchers read, each until `found` finds something in a document.
fn watched<T, F: Send>(
    watchers: &mut [Client],
    change: impl FnOnce() -> T,
    found: impl Fn(&str) -> Option<F> + Sync,
) -> (T, Vec<F>) {
    let found = &found;
    std::thread::scope(|scope| {
        let reading: Vec<_> = watchers
            .iter_mut()
            .map(|watcher| {
                scope.spawn(move || {
                    let mut documents = std::iter::repeat_with(|| watcher.document());
                    documents.find_map(|document| found(&document))
                })
            })
            .collect();
        let changed = change();
        let found = reading.into_iter().map(|thread| {
            let found = thread.join().expect("a reader");
            found.expect("documents do not end")
        });
        (changed, found.collect())
    })
}

/// A session that is granted.
fn granted(command: &[u8]) -> Client {
    let mut client = Client::greeted().expect("connect");
    assert!(client.open(command), "open");
    let answer = client.next();
    assert!(
        matches!(answer, Some(DaemonMessage::Granted { .. })),
        "{answer:?}"
    );
    client
}

/// Watchers that never read, while sessions come and go.
fn blind_watchers() {
    let watchers: Vec<Client> = (0..200)
        .map(|_| {
            let client = Client::greeted().expect("connect");
            assert!(client.say(&status(true)));
            client
        })
        .collect();
    again_and_again(|_| {
        let mut client = Client::greeted().expect("connect");
        client.open(&[b'x'; 1024]);
        if let Some(DaemonMessage::Granted { .. }) = client.next() {
            client.say(&ClientMessage::Close);
            client.rest();
        }
    });
    drop(watchers);
}

/// Opens and closes a FIFO of the storage for writing. This is allowed while the storage is read-only,
/// and the kernel reports each close to the daemon.
fn storm() {
    let mount = std::path::PathBuf::from(std::env::var_os("PST_MOUNT").expect("PST_MOUNT"));
    let fifo = mount.join("data/fifo");
    let mut open = std::fs::OpenOptions::new();
    open.read(true).write(true);
    let mut told = false;
    while !enough() {
        for _ in 0..1000 {
            open.open(&fifo).expect("open");
        }
        if !std::mem::replace(&mut told, true) {
            begun();
        }
    }
}

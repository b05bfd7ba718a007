//! The head of a request to kvmd's API: understood the same however it comes in, and answered
//! by HTTP with JSON whatever it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pst::daemon::http::{Failure, HEAD_MAX, Request, Route};

// The first byte says in pieces of which size the rest comes; 0: all at once.
fuzz_target!(|data: &[u8]| {
    let Some((&piece, bytes)) = data.split_first() else {
        return;
    };
    let whole = read(std::iter::once(bytes.len()), bytes);
    if piece > 0 {
        let ends = (0..=bytes.len()).step_by(usize::from(piece) * 16);
        let pieces = read(ends.chain([bytes.len()]), bytes);
        // What comes behind a head that is too long for sure is not looked at.
        if bytes.len() <= HEAD_MAX {
            assert_eq!(shown(&pieces), shown(&whole), "in pieces of {piece}");
        }
    }
    match whole {
        None => assert!(bytes.len() <= HEAD_MAX),
        Some(Err(failure)) => complaint(&failure),
        Some(Ok((request, length))) => {
            assert!(length <= HEAD_MAX && length <= bytes.len());
            assert!(bytes[..length].ends_with(b"\n"));
            asked(&request);
        }
    }
});

type Head = Option<Result<(Request, usize), Failure>>;

/// What the daemon makes of it, having read up to each of these ends.
fn read(ends: impl Iterator<Item = usize>, bytes: &[u8]) -> Head {
    ends.map(|end| Request::parse(&bytes[..end]).transpose())
        .find(Option::is_some)?
}

fn shown(head: &Head) -> String {
    format!("{head:?}")
}

fn asked(request: &Request) {
    let client = request.client();
    assert!(client.starts_with(b"kvmd API: ") && client.len() <= 266);
    match request.route() {
        Ok(Route::State) => {}
        Ok(Route::WebSocket) => match request.upgrade() {
            Ok(response) => assert_eq!(answer(&response.bytes(false)), (101, Vec::new())),
            Err(failure) => complaint(&failure),
        },
        Err(failure) => complaint(&failure),
    }
}

fn complaint(failure: &Failure) {
    assert!(!failure.to_string().chars().any(char::is_control));
    let (status, body) = answer(&failure.response().bytes(true));
    assert!((400..500).contains(&status), "{status}");
    let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(body["ok"], false);
    assert!(body["result"]["error"].is_string() && body["result"]["error_msg"].is_string());
}

/// An answer's status and body; its head is one of HTTP, and says how long the body is.
fn answer(bytes: &[u8]) -> (u16, Vec<u8>) {
    let mut headers = [httparse::EMPTY_HEADER; 8];
    let mut response = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(length)) = response.parse(bytes) else {
        panic!("{:?}", String::from_utf8_lossy(bytes));
    };
    let body = &bytes[length..];
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            assert_eq!(header.value, body.len().to_string().as_bytes());
        }
    }
    (response.code.expect("a status"), body.to_vec())
}

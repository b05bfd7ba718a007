//! Requests to kvmd's API: a head is parsed the same in any pieces, and every response is HTTP with
//! JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pst::daemon::http::{HEAD_MAX, HttpError, HttpRequest, Route};

// The first byte is the size of the pieces, in units of 16 bytes; 0: all at once.
fuzz_target!(|data: &[u8]| {
    let Some((&piece, bytes)) = data.split_first() else {
        return;
    };
    let whole = read(std::iter::once(bytes.len()), bytes);
    if piece > 0 {
        let ends = (0..=bytes.len()).step_by(usize::from(piece) * 16);
        let pieces = read(ends.chain([bytes.len()]), bytes);
        // Pieces end where the head is certainly too long.
        if bytes.len() <= HEAD_MAX {
            assert_eq!(shown(&pieces), shown(&whole), "in pieces of {piece}");
        }
    }
    match whole {
        None => assert!(bytes.len() <= HEAD_MAX),
        Some(Err(error)) => refused(&error),
        Some(Ok((request, length))) => {
            assert!(length <= HEAD_MAX && length <= bytes.len());
            assert!(bytes[..length].ends_with(b"\n"));
            asked(&request);
        }
    }
});

type Head = Option<Result<(HttpRequest, usize), HttpError>>;

/// What the daemon parses after reading up to each of these ends.
fn read(ends: impl Iterator<Item = usize>, bytes: &[u8]) -> Head {
    ends.map(|end| HttpRequest::parse(&bytes[..end]).transpose())
        .find(Option::is_some)?
}

fn shown(head: &Head) -> String {
    format!("{head:?}")
}

fn asked(request: &HttpRequest) {
    let client = request.client();
    assert!(client.starts_with(b"kvmd API: ") && client.len() <= 266);
    match request.route() {
        Ok(Route::State) => {}
        Ok(Route::WebSocket) => match request.upgrade() {
            Ok(response) => assert_eq!(answer(&response.bytes(false)), (101, Vec::new())),
            Err(error) => refused(&error),
        },
        Err(error) => refused(&error),
    }
}

fn refused(error: &HttpError) {
    assert!(!error.to_string().chars().any(char::is_control));
    let (status, body) = answer(&error.response().bytes(true));
    assert!((400..500).contains(&status), "{status}");
    let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(body["ok"], false);
    assert!(body["result"]["error"].is_string() && body["result"]["error_msg"].is_string());
}

/// Returns the status and body of a response. Checks its content length.
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

//! Tests of the HTTP requests and responses.

use proptest::prelude::*;

use super::*;

fn parse(head: &str) -> HttpRequest {
    let (request, length) = HttpRequest::parse(head.as_bytes()).unwrap().unwrap();
    assert_eq!(length, head.len());
    request
}

fn status(error: &HttpError) -> u16 {
    error.status.as_u16()
}

/// Returns the status of the response to a complete head.
fn answered(head: &str) -> u16 {
    match HttpRequest::parse(head.as_bytes()) {
        Err(error) => status(&error),
        Ok(None) => panic!("incomplete: {head}"),
        Ok(Some((request, _))) => match request.route() {
            Err(error) => status(&error),
            Ok(Route::WebSocket) => request
                .upgrade()
                .map_or_else(|error| status(&error), |_| 101),
            Ok(Route::State) => 200,
        },
    }
}

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: localhost:0\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nUser-Agent: KVMD-PSTRun/4.20\r\n\r\n";

#[test]
fn each_request_gets_the_right_http_status() {
    for (head, expected) in [
        ("GET /state HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        ("GET /state?a=b HTTP/1.0\r\n\r\n", 200),
        ("GET http://localhost:0/state HTTP/1.1\r\n\r\n", 200),
        ("HEAD /state HTTP/1.1\r\n\r\n", 200),
        ("GET /state HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 200),
        (UPGRADE, 101),
        ("GET / HTTP/1.1\r\n\r\n", 404),
        ("GET /state/ HTTP/1.1\r\n\r\n", 404),
        ("GET /../state HTTP/1.1\r\n\r\n", 404),
        ("OPTIONS * HTTP/1.1\r\n\r\n", 404),
        ("POST /state HTTP/1.1\r\nContent-Length: 5\r\n\r\n", 405),
        ("HEAD /ws HTTP/1.1\r\n\r\n", 405),
        ("BREW /state HTTP/1.1\r\n\r\n", 405),
        ("GET /state HTTP/1.1\r\nContent-Length: 5\r\n\r\n", 413),
        (
            "GET /ws HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            413,
        ),
        ("GET /ws HTTP/1.1\r\n\r\n", 400),
        ("GET /state HTTP/2.0\r\n\r\n", 400),
        ("GET /st\0ate HTTP/1.1\r\n\r\n", 400),
        ("GET /state HTTP/1.1\r\nno header\r\n\r\n", 400),
        ("GARBAGE\r\n\r\n", 400),
    ] {
        assert_eq!(answered(head), expected, "{head:?}");
    }
    for broken in [
        UPGRADE.replace("13", "12"),
        UPGRADE.replace("websocket", "h2c"),
        UPGRADE.replace("Connection: Upgrade", "Connection: close"),
        UPGRADE.replace("dGhl", "dGh"),
        UPGRADE.replace("HTTP/1.1", "HTTP/1.0"),
    ] {
        assert_eq!(answered(&broken), 400, "{broken:?}");
    }
}

#[test]
fn a_head_is_limited_to_8_kib_and_64_headers() {
    let long = |more: usize| {
        let head = "GET /state HTTP/1.1\r\nX: \r\n\r\n";
        head.replace(
            "X: ",
            &format!("X: {}", "x".repeat(HEAD_MAX + more - head.len())),
        )
    };
    assert_eq!(answered(&long(0)), 200);
    assert_eq!(answered(&long(1)), 431);
    let endless = "GET /state HTTP/1.1\r\nX: ".to_owned() + &"x".repeat(HEAD_MAX);
    assert_eq!(answered(&endless), 431);
    let headers = |count| format!("GET /state HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
    assert_eq!(answered(&headers(64)), 200);
    assert_eq!(answered(&headers(65)), 431);
}

#[test]
fn every_part_of_a_head_is_incomplete() {
    for end in 1..UPGRADE.len() {
        let part = HttpRequest::parse(&UPGRADE.as_bytes()[..end]);
        assert!(matches!(part, Ok(None)), "{end}: {part:?}");
    }
    let with_more = UPGRADE.to_owned() + "\u{81}x";
    let (_, length) = HttpRequest::parse(with_more.as_bytes()).unwrap().unwrap();
    assert_eq!(length, UPGRADE.len());
}

#[test]
fn responses_are_http_with_json() {
    let response = HttpResponse::result(&["a"]);
    let text = String::from_utf8(response.bytes(true)).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(
        text.ends_with("\r\n\r\n{\"ok\":true,\"result\":[\"a\"]}\n"),
        "{text}"
    );
    assert!(text.contains("\r\ncontent-length: 27\r\n"), "{text}");
    assert!(text.contains("\r\nconnection: close\r\n"), "{text}");
    let head = String::from_utf8(response.bytes(false)).unwrap();
    assert!(text.starts_with(&head) && head.ends_with("\r\n\r\n"));

    let error = parse("PUT /state HTTP/1.1\r\n\r\n").route().unwrap_err();
    let text = String::from_utf8(error.response().bytes(true)).unwrap();
    assert!(
        text.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"),
        "{text}"
    );
    assert!(text.contains("\r\nallow: GET, HEAD\r\n"), "{text}");
    assert!(
        text.ends_with("{\"ok\":false,\"result\":{\"error\":\"MethodNotAllowedError\",\"error_msg\":\"/state takes only GET, HEAD\"}}\n"),
        "{text}"
    );
}

#[test]
fn the_upgrade_follows_rfc_6455() {
    let response = parse(UPGRADE).upgrade().unwrap().bytes(false);
    let text = String::from_utf8(response).unwrap();
    assert!(
        text.starts_with("HTTP/1.1 101 Switching Protocols\r\n"),
        "{text}"
    );
    assert!(
        text.contains("\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
        "{text}"
    );
}

#[test]
fn a_client_is_named_by_its_user_agent_up_to_a_limit() {
    assert_eq!(parse(UPGRADE).client(), b"kvmd API: KVMD-PSTRun/4.20");
    let nameless = parse("GET /ws HTTP/1.1\r\n\r\n");
    assert_eq!(nameless.client(), b"kvmd API: no name");
    let long = UPGRADE.replace("4.20", &"\u{e9}".repeat(1000));
    assert_eq!(parse(&long).client().len(), 10 + NAME_MAX);
}

proptest! {
    #[test]
    fn no_input_causes_a_panic(bytes: Vec<u8>, end in 0..UPGRADE.len()) {
        let _ = HttpRequest::parse(&bytes);
        let mut mixed = UPGRADE.as_bytes()[..end].to_vec();
        mixed.extend(bytes);
        mixed.extend(b"\r\n\r\n");
        if let Ok(Some((request, length))) = HttpRequest::parse(&mixed) {
            prop_assert!(length <= mixed.len());
            let _ = request.route();
            let _ = request.upgrade();
            let _ = request.client();
        }
    }
}

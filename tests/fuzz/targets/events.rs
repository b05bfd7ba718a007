//! The events of kvmd's API: the daemon accepts what any JSON parser accepts, and sends valid JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pst::daemon::events::{ClientEvent, DataState, StorageState, storage};
use serde_json::Value;

fuzz_target!(|text: &str| {
    let value = serde_json::from_str(text).ok();
    match ClientEvent::parse(text) {
        Ok(event) => assert_eq!(value.as_ref().and_then(understood), Some(event)),
        Err(error) => {
            assert_eq!(value.as_ref().and_then(understood), None, "{error}");
            let shown = pst::escape::escape(&error.to_string()).to_string();
            assert!(!shown.chars().any(char::is_control), "{shown:?}");
        }
    }
    said(text);
});

/// Returns the event that a JSON value is, by the protocol.
fn understood(value: &Value) -> Option<ClientEvent> {
    let name = value.as_object()?.get("event_type")?.as_str()?;
    value.get("event")?.as_object()?;
    Some(match name {
        "ping" => ClientEvent::Ping,
        other => ClientEvent::Unknown(other.into()),
    })
}

fn said(path: &str) {
    let data = DataState {
        path,
        write_allowed: true,
    };
    let event = storage(&StorageState { clients: 1, data });
    let event: Value = serde_json::from_str(&event).expect("JSON");
    assert_eq!(event["event_type"], "storage");
    assert_eq!(event["event"]["data"]["path"], path);
}

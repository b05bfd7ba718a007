//! The events of kvmd's API: what is understood is what any reader of JSON understands, and
//! what is said can be read by any.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pst::daemon::events::{Data, Event, Storage, storage};
use serde_json::Value;

fuzz_target!(|text: &str| {
    let value = serde_json::from_str(text).ok();
    match Event::parse(text) {
        Ok(event) => assert_eq!(value.as_ref().and_then(understood), Some(event)),
        Err(error) => {
            assert_eq!(value.as_ref().and_then(understood), None, "{error}");
            let shown = pst::escape::escape(&error.to_string()).to_string();
            assert!(!shown.chars().any(char::is_control), "{shown:?}");
        }
    }
    said(text);
});

/// The event that a value is, as the protocol has it.
fn understood(value: &Value) -> Option<Event> {
    let name = value.as_object()?.get("event_type")?.as_str()?;
    value.get("event")?.as_object()?;
    Some(match name {
        "ping" => Event::Ping,
        other => Event::Unknown(other.into()),
    })
}

fn said(path: &str) {
    let data = Data {
        path,
        write_allowed: true,
    };
    let event = storage(&Storage { clients: 1, data });
    let event: Value = serde_json::from_str(&event).expect("JSON");
    assert_eq!(event["event_type"], "storage");
    assert_eq!(event["event"]["data"]["path"], path);
}

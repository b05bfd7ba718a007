//! The events of kvmd's API: what is understood is what any reader of JSON understands, and
//! what is said can be read by any.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pst::daemon::events::{Data, Event, Storage, storage};
use serde_json::Value;

fuzz_target!(|text: &str| {
    let event = Event::parse(text);
    match serde_json::from_str::<Value>(text) {
        Ok(value) => {
            let expected = understood(&value);
            if event.is_ok() {
                assert_eq!(event.ok(), expected);
            }
            // Written anew nothing is in it twice.
            assert_eq!(Event::parse(&value.to_string()).ok(), expected);
        }
        // What no known event has is passed over without being looked at closely.
        Err(_) => {
            if let Err(error) = event {
                assert!(
                    !pst::escape::escape(&error.to_string())
                        .to_string()
                        .contains('\n')
                );
            }
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

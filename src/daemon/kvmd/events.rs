//! What is said over HTTP and WebSocket, as JSON. Pure.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The storage, as kvmd's clients know it.
#[derive(Debug, Serialize)]
pub struct Storage<'a> {
    /// How many sessions are open.
    pub clients: usize,
    /// Where it is, and how.
    pub data: Data<'a>,
}

/// Where the storage is, and how.
#[derive(Debug, Serialize)]
pub struct Data<'a> {
    pub path: &'a str,
    /// Whether it may be written to.
    pub write_allowed: bool,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct Outgoing<'a, T> {
    event_type: &'a str,
    event: T,
}

#[derive(Deserialize)]
struct Incoming {
    event_type: String,
    event: Map<String, Value>,
}

#[derive(Debug, PartialEq)]
pub enum Event {
    /// `ping`
    Ping,
    /// Of a type that is not known.
    Unknown(String),
}

impl Event {
    /// Understands a client's event.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Event, serde_json::Error> {
        // By way of an object, since serde takes an array of the fields' values as well.
        let object: Map<String, Value> = serde_json::from_str(text)?;
        let incoming: Incoming = serde_json::from_value(Value::Object(object))?;
        let _ = incoming.event; // checked to be an object; no known event has anything in it
        Ok(match &*incoming.event_type {
            "ping" => Event::Ping,
            _ => Event::Unknown(incoming.event_type),
        })
    }
}

/// The event that comes first.
pub fn begin() -> String {
    event("loop", Empty {})
}

/// The answer to `ping`.
pub fn pong() -> String {
    event("pong", Empty {})
}

/// What the storage is, as an event.
pub fn storage(storage: &Storage<'_>) -> String {
    event("storage", storage)
}

fn event(event_type: &str, event: impl Serialize) -> String {
    json(&Outgoing { event_type, event })
}

pub fn json(value: &impl Serialize) -> String {
    // It fails only for maps whose keys are no strings; there are none.
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_as_kvmd_has_them() {
        assert_eq!(begin(), r#"{"event_type":"loop","event":{}}"#);
        assert_eq!(pong(), r#"{"event_type":"pong","event":{}}"#);
        let now = Storage {
            clients: 2,
            data: Data {
                path: "/a \"b\"",
                write_allowed: true,
            },
        };
        assert_eq!(
            storage(&now),
            r#"{"event_type":"storage","event":{"clients":2,"data":{"path":"/a \"b\"","write_allowed":true}}}"#
        );
    }

    #[test]
    fn a_ping_is_understood_however_it_is_written() {
        for text in [
            r#"{"event_type": "ping", "event": {}}"#,
            r#" {"event": {"x": [1]}, "event_type": "p\u0069ng", "more": 1} "#,
        ] {
            assert_eq!(Event::parse(text).unwrap(), Event::Ping, "{text}");
        }
    }

    #[test]
    fn what_is_no_event_is_told_from_what_is_not_known() {
        let unknown = Event::parse(r#"{"event_type": "a\nb", "event": {}}"#).unwrap();
        assert_eq!(unknown, Event::Unknown("a\nb".into()));
        for broken in [
            "",
            "ping",
            "[]",
            "{}",
            r#"["ping", {}]"#,
            r#"{"event_type": "ping"}"#,
            r#"{"event_type": "ping", "event": []}"#,
            r#"{"event_type": 1, "event": {}}"#,
            r#"{"event_type": "ping", "event": {}} x"#,
            &"[".repeat(4096),
        ] {
            assert!(Event::parse(broken).is_err(), "{broken}");
        }
    }
}

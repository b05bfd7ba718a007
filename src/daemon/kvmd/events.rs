//! The JSON of kvmd's API. No I/O.

use serde::Serialize;
use serde::de::Error as _;
use serde_json::{Map, Value};

/// The storage's state in kvmd's format.
#[derive(Debug, Serialize)]
pub struct StorageState<'a> {
    /// The number of open sessions.
    pub clients: usize,
    pub data: DataState<'a>,
}

#[derive(Debug, Serialize)]
pub struct DataState<'a> {
    pub path: &'a str,
    pub write_allowed: bool,
}

#[derive(Serialize)]
struct Outgoing<'a, T> {
    event_type: &'a str,
    event: T,
}

/// An event from a client.
#[derive(Debug, PartialEq)]
pub enum ClientEvent {
    Ping,
    Unknown(String),
}

impl ClientEvent {
    /// Parses an event: an object with `event_type` and the object `event`. No known event has fields.
    pub fn parse(text: &str) -> Result<ClientEvent, serde_json::Error> {
        let mut fields: Map<String, Value> = serde_json::from_str(text)?;
        match (fields.remove("event_type"), fields.get("event")) {
            (Some(Value::String(name)), Some(Value::Object(_))) if name == "ping" => {
                Ok(ClientEvent::Ping)
            }
            (Some(Value::String(name)), Some(Value::Object(_))) => Ok(ClientEvent::Unknown(name)),
            _ => Err(serde_json::Error::custom("no event_type, or no event")),
        }
    }
}

/// Returns the first event of a WebSocket.
pub fn begin() -> String {
    event("loop", Map::new())
}

/// Returns the answer to `ping`.
pub fn pong() -> String {
    event("pong", Map::new())
}

pub fn storage(storage: &StorageState<'_>) -> String {
    event("storage", storage)
}

fn event(event_type: &str, event: impl Serialize) -> String {
    json(&Outgoing { event_type, event })
}

pub(super) fn json(value: &impl Serialize) -> String {
    // Fails only for maps with keys that are not strings. There are none.
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_kvmds_format() {
        assert_eq!(begin(), r#"{"event_type":"loop","event":{}}"#);
        assert_eq!(pong(), r#"{"event_type":"pong","event":{}}"#);
        let now = StorageState {
            clients: 2,
            data: DataState {
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
    fn a_ping_is_recognized_in_any_notation() {
        for text in [
            r#"{"event_type": "ping", "event": {}}"#,
            r#" {"event": {"x": [1]}, "event_type": "p\u0069ng", "more": 1} "#,
        ] {
            assert_eq!(
                ClientEvent::parse(text).unwrap(),
                ClientEvent::Ping,
                "{text}"
            );
        }
    }

    #[test]
    fn an_unknown_event_is_valid() {
        let unknown = ClientEvent::parse(r#"{"event_type": "a\nb", "event": {}}"#).unwrap();
        assert_eq!(unknown, ClientEvent::Unknown("a\nb".into()));
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
            assert!(ClientEvent::parse(broken).is_err(), "{broken}");
        }
    }
}

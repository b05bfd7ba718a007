//! Serves kvmd's API, HTTP/1.1 and WebSocket on the daemon's socket, for kvmd and its clients.
//!
//! | request | response |
//! | --- | --- |
//! | `GET /state` | 200, `{"ok": true, "result": STORAGE}` |
//! | `GET /ws` | a WebSocket, which is a session while it is open |
//! | other | 400, 403, 404, 405, 408, 413, 431, or 503 over the limit: `{"ok": false, "result": {"error": NAME, "error_msg": TEXT}}` |
//!
//! STORAGE is `{"clients": N, "data": {"path": P, "write_allowed": B}}`: the number of open sessions of
//! both protocols, the storage root or the path below it from `[kvmd_api] path`, and whether any
//! session may write. The connection is closed after the response.
//!
//! On a WebSocket both sides send text: `{"event_type": T, "event": {…}}`.
//!
//! | the daemon sends | when |
//! | --- | --- |
//! | `loop`, `{}` | first |
//! | `storage`, STORAGE | when the session is granted or denied, and at each change while it is granted. `write_allowed` is about this session: after `false` the connection is closed |
//! | `pong`, `{}` | after the client's `ping` |
//!
//! Other events of a client are ignored. The daemon sends WebSocket pings and disconnects a client
//! that does not answer. When the client closes a granted session, the daemon completes the closing
//! handshake once the data is on the card; if the data is lost, it only disconnects.
//!
//! `server` decides access and limits, `arbiter` decides grants.

pub mod events;
pub mod http;
mod websocket;

use tungstenite::http::StatusCode;

use self::events::{DataState, StorageState};
use self::http::{HttpError, HttpRequest, HttpResponse, Route};
use super::connection::{Connection, ConnectionError};
use super::context::Context;
use super::handle::StatusSnapshot;
use crate::problem::Problem;

/// Whether these first bytes of a connection belong to this API.
pub(super) fn speaks(early: &[u8]) -> bool {
    early.first().is_some_and(u8::is_ascii_alphabetic)
}

/// Serves a connection until it ends, or refuses it once its request has arrived. `early` are the bytes read so far.
pub(super) async fn serve(
    context: &Context,
    connection: &Connection,
    mut early: Vec<u8>,
    refusal: Option<&Problem>,
) {
    let request = match connection
        .in_time(read_request(connection, &mut early))
        .await
    {
        Ok(request) => request,
        Err(ConnectionError::Broken(text)) => {
            Err(HttpError::new(StatusCode::REQUEST_TIMEOUT, text))
        }
        Err(ConnectionError::Gone) => return,
    };
    let with_body = request.as_ref().map_or(true, HttpRequest::wants_body);
    let served = match (refusal, request) {
        (Some(problem), _) => Err(HttpError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            problem.to_string(),
        )),
        (None, Ok(request)) => respond(context, connection, request, early).await,
        (None, Err(error)) => Err(error),
    };
    if let Err(error) = served {
        log::debug!("{} gets an HTTP error: {error}", connection.peer);
        send(connection, &error.response(), with_body).await;
    }
}

/// Reads the head of a request and leaves the bytes after it in `bytes`.
async fn read_request(
    connection: &Connection,
    bytes: &mut Vec<u8>,
) -> Result<Result<HttpRequest, HttpError>, ConnectionError> {
    loop {
        match HttpRequest::parse(bytes) {
            Ok(None) => connection.read(|more| bytes.extend(more)).await?,
            Ok(Some((request, length))) => {
                bytes.drain(..length);
                return Ok(Ok(request));
            }
            Err(error) => return Ok(Err(error)),
        }
    }
}

async fn respond(
    context: &Context,
    connection: &Connection,
    request: HttpRequest,
    early: Vec<u8>,
) -> Result<(), HttpError> {
    match request.route()? {
        Route::State => {
            let status = context.controller.status(true).await;
            // Drops the status: a slow client must not keep it in memory.
            let response = status.map(|status| {
                HttpResponse::result(&storage(context, &status, status.write_allowed))
            });
            if let Some(response) = response {
                send(connection, &response, request.wants_body()).await;
            }
        }
        Route::WebSocket if !connection.admitted => {
            let text = context.not_admitted(connection.peer);
            return Err(HttpError::new(StatusCode::FORBIDDEN, text));
        }
        Route::WebSocket => {
            let (client, accept) = (request.client(), request.upgrade()?.bytes(false));
            drop(request); // its headers would take memory for the whole session
            websocket::serve(context, connection, client, accept, early).await;
        }
    }
    Ok(())
}

fn storage<'a>(
    context: &'a Context,
    status: &StatusSnapshot,
    write_allowed: bool,
) -> StorageState<'a> {
    StorageState {
        clients: status.clients,
        data: DataState {
            path: &context.api_path,
            write_allowed,
        },
    }
}

async fn send(connection: &Connection, response: &HttpResponse, with_body: bool) {
    let _ = connection.write(&response.bytes(with_body)).await; // the client may be gone
}

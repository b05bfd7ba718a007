//! kvmd's own API, HTTP/1.1 and WebSocket on the same socket, for kvmd and its Python clients.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /state` | 200, `{"ok": true, "result": STORAGE}` |
//! | `GET /ws` | a WebSocket: a session for as long as it is open |
//! | another | 400, 403, 404, 405, 408, 413, 431, and 503 over the limit: `{"ok": false, "result": {"error": NAME, "error_msg": TEXT}}` |
//!
//! STORAGE is `{"clients": N, "data": {"path": P, "write_allowed": B}}`: the sessions that are
//! open, of either protocol; the storage root, or what `[kvmd_api] path` names below it; whether
//! somebody may write. One request a connection; the connection is closed after the answer.
//!
//! On a WebSocket both sides send text: `{"event_type": T, "event": {…}}`.
//!
//! | the daemon sends | when |
//! | --- | --- |
//! | `loop`, `{}` | first |
//! | `storage`, STORAGE | once the session is granted or denied, and at each change after a grant; here `write_allowed` is about this session: false is the last one, and the connection is closed after it |
//! | `pong`, `{}` | a client sent `ping` |
//!
//! What else a client sends is logged and passed over. The daemon pings (the WebSocket's own pings)
//! and drops who does not answer. Who closes a granted session gets the closing handshake's
//! second half once the data is on the medium, and never if it could not be put there.
//!
//! Who may come in, how many, and who gets the storage when is not decided here.

pub mod events;
pub mod http;
mod websocket;

use self::events::Data;
use self::http::{Failure, Request, Response, Route};
use super::connection::{Connection, Fault};
use super::context::Context;
use super::status::StatusSnapshot;

/// Whether a connection that begins so is this API's.
pub(super) fn speaks(early: &[u8]) -> bool {
    early.first().is_some_and(u8::is_ascii_alphabetic)
}

/// Serves a connection to its end. `early`: what was read of it so far.
pub(super) async fn serve(context: &Context, connection: &Connection, early: Vec<u8>) {
    let mut bytes = early;
    let failure = match connection.in_time(head(connection, &mut bytes)).await {
        Ok(Ok(request)) => match answer(context, connection, request, bytes).await {
            Ok(()) | Err(Fault::Gone | Fault::Late) => return,
            Err(Fault::Broken(text)) => {
                log::warn!("a client ({}) broke the protocol: {text}", connection.peer);
                return;
            }
        },
        Ok(Err(failure)) => failure,
        Err(Fault::Late) => Failure::late(),
        Err(Fault::Gone | Fault::Broken(_)) => return,
    };
    fail(connection, &failure, true).await;
}

/// Reads a request's head. Afterwards `bytes` are what came behind it.
async fn head(
    connection: &Connection,
    bytes: &mut Vec<u8>,
) -> Result<Result<Request, Failure>, Fault> {
    loop {
        match Request::parse(bytes) {
            Ok(None) => {}
            Ok(Some((request, length))) => {
                bytes.drain(..length);
                return Ok(Ok(request));
            }
            Err(failure) => return Ok(Err(failure)),
        }
        connection
            .read(|more| bytes.extend_from_slice(more))
            .await?;
    }
}

async fn answer(
    context: &Context,
    connection: &Connection,
    request: Request,
    early: Vec<u8>,
) -> Result<(), Fault> {
    let wants_body = request.wants_body();
    let failure = match request.route() {
        Ok(Route::State) => {
            let status = context.controller.status(true).await.ok_or(Fault::Gone)?;
            let response = Response::result(&state(context, &status, status.write_allowed));
            return connection.write(&response.bytes(wants_body)).await;
        }
        Ok(Route::WebSocket) if !connection.admitted => {
            Failure::forbidden(context.not_admitted(connection.peer))
        }
        Ok(Route::WebSocket) => match request.upgrade() {
            Ok(response) => {
                connection.write(&response.bytes(false)).await?;
                // Of the head, and the room that it took, nothing is kept as long as the session.
                let (client, early) = (request.client(), early.into_boxed_slice());
                drop((request, response));
                return websocket::session(context, connection, client, early).await;
            }
            Err(failure) => failure,
        },
        Err(failure) => failure,
    };
    fail(connection, &failure, wants_body).await;
    Ok(())
}

async fn fail(connection: &Connection, failure: &Failure, wants_body: bool) {
    log::debug!("{} gets an HTTP error: {failure}", connection.peer);
    // It may be gone.
    let _ = connection
        .write(&failure.response().bytes(wants_body))
        .await;
}

fn state<'a>(
    context: &'a Context,
    status: &StatusSnapshot,
    write_allowed: bool,
) -> events::Storage<'a> {
    events::Storage {
        clients: status.clients,
        data: Data {
            path: &context.settings.api_path,
            write_allowed,
        },
    }
}

/// Tells a client for which there is no room so, once it has said what it wants, or has had its time.
pub(super) async fn refuse(connection: &Connection, early: Vec<u8>, text: String) {
    let mut bytes = early;
    let asked = connection.in_time(head(connection, &mut bytes)).await;
    let wants_body = match asked {
        Err(Fault::Gone) => return,
        Ok(Ok(request)) => request.wants_body(),
        _ => true,
    };
    fail(connection, &Failure::unavailable(text), wants_body).await;
}

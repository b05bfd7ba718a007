//! Requests and responses: heads in, bytes out. Pure.

use std::fmt;

use serde::Serialize;
use tungstenite::handshake::server::{create_response, write_response};
use tungstenite::http::{self, Method, StatusCode, Version, header};

use super::events::json;

/// Longest head of a request, in bytes.
pub const HEAD_MAX: usize = 8 << 10;
/// Most headers of a request.
const HEADERS_MAX: usize = 64;
/// What is kept of a client's name, in bytes.
const NAME_MAX: usize = 256;

#[derive(Debug)]
pub struct Request(http::Request<()>);

/// What a request is for.
#[derive(Debug, PartialEq)]
pub enum Route {
    State,
    WebSocket,
}

impl Request {
    /// Understands a head, if it is all there; also says how long it is.
    ///
    /// # Errors
    /// It is no head, or too long.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Request, usize)>, Failure> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut headers);
        let length = match parsed.parse(bytes) {
            Ok(httparse::Status::Complete(length)) if length <= HEAD_MAX => length,
            Ok(httparse::Status::Partial) if bytes.len() <= HEAD_MAX => return Ok(None),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => {
                let text = format!("more than {HEAD_MAX} bytes or {HEADERS_MAX} headers");
                return Err(Failure::new(
                    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                    text,
                ));
            }
            Err(error) => return Err(Failure::new(StatusCode::BAD_REQUEST, error.to_string())),
        };
        let mut request = http::Request::builder()
            .method(parsed.method.unwrap_or_default())
            .uri(parsed.path.unwrap_or_default())
            .version(match parsed.version {
                Some(1) => Version::HTTP_11,
                _ => Version::HTTP_10,
            });
        for header in parsed.headers.iter() {
            request = request.header(header.name, header.value);
        }
        match request.body(()) {
            Ok(request) => Ok(Some((Request(request), length))),
            Err(error) => Err(Failure::new(StatusCode::BAD_REQUEST, error.to_string())),
        }
    }

    /// What it is for.
    ///
    /// # Errors
    /// There is no such thing, or it is not to be had in this way.
    pub fn route(&self) -> Result<Route, Failure> {
        let path = self.0.uri().path();
        let (route, methods) = match path {
            "/state" => (Route::State, &[Method::GET, Method::HEAD][..]),
            "/ws" => (Route::WebSocket, &[Method::GET][..]),
            _ => {
                let text = format!("there is no {path}: only /state and /ws");
                return Err(Failure::new(StatusCode::NOT_FOUND, text));
            }
        };
        if !methods.contains(self.0.method()) {
            let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
            let text = format!("{path} takes only {}", names.join(", "));
            let mut failure = Failure::new(StatusCode::METHOD_NOT_ALLOWED, text);
            failure.header = Some((header::ALLOW, names.join(", ")));
            return Err(failure);
        }
        let headers = self.0.headers();
        let length = headers.get(header::CONTENT_LENGTH);
        if headers.contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|l| l != "0") {
            let text = format!("{path} takes no body");
            return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, text));
        }
        Ok(route)
    }

    /// Whether the answer's body is to be sent.
    pub fn wants_body(&self) -> bool {
        self.0.method() != Method::HEAD
    }

    /// The answer that makes this connection a WebSocket.
    ///
    /// # Errors
    /// The request does not ask for it as it should.
    pub fn upgrade(&self) -> Result<Response, Failure> {
        match create_response(&self.0) {
            Ok(response) => Ok(Response(response.map(|()| String::new()))),
            Err(error) => {
                let mut failure = Failure::new(StatusCode::BAD_REQUEST, error.to_string());
                failure.header = Some((header::SEC_WEBSOCKET_VERSION, "13".into()));
                Err(failure)
            }
        }
    }

    /// Who asks, as the status shows it.
    pub fn client(&self) -> Vec<u8> {
        let agent = self.0.headers().get(header::USER_AGENT);
        let agent = agent.map_or(&b"no name"[..], |agent| agent.as_bytes());
        let agent = agent.get(..NAME_MAX).unwrap_or(agent);
        [b"kvmd API: ", agent].concat()
    }
}

#[derive(Debug)]
pub struct Response(http::Response<String>);

#[derive(Serialize)]
struct Body<T> {
    ok: bool,
    result: T,
}

#[derive(Serialize)]
struct Complaint<'a> {
    error: &'a str,
    error_msg: &'a str,
}

impl Response {
    pub fn result(result: &impl Serialize) -> Response {
        Response::json(StatusCode::OK, &Body { ok: true, result })
    }

    fn json(status: StatusCode, body: &impl Serialize) -> Response {
        let body = json(body) + "\n";
        let length = body.len();
        let mut response = http::Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let json = http::HeaderValue::from_static("application/json; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, json);
        headers.insert(header::CONTENT_LENGTH, length.into());
        let close = http::HeaderValue::from_static("close");
        headers.insert(header::CONNECTION, close);
        Response(response)
    }

    pub fn bytes(&self, with_body: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        // It fails only for versions and header values that none of ours has.
        let _ = write_response(&mut bytes, &self.0);
        if with_body {
            bytes.extend_from_slice(self.0.body().as_bytes());
        }
        bytes
    }
}

/// Why a request is refused.
#[derive(Debug)]
pub struct Failure {
    status: StatusCode,
    text: String,
    header: Option<(http::HeaderName, String)>,
}

impl Failure {
    fn new(status: StatusCode, text: String) -> Failure {
        Failure {
            status,
            text,
            header: None,
        }
    }

    /// The client may not have what it wants.
    pub fn forbidden(text: String) -> Failure {
        Failure::new(StatusCode::FORBIDDEN, text)
    }

    /// There is no room for it.
    pub fn unavailable(text: String) -> Failure {
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, text)
    }

    /// It took too long to say what it wants.
    pub fn late() -> Failure {
        let text = "no whole request came in 5 s".into();
        Failure::new(StatusCode::REQUEST_TIMEOUT, text)
    }

    /// What the client is told.
    pub fn response(&self) -> Response {
        let body = Body {
            ok: false,
            result: Complaint {
                error: self.name(),
                error_msg: &self.text,
            },
        };
        let mut response = Response::json(self.status, &body);
        if let Some((name, value)) = &self.header {
            if let Ok(value) = http::HeaderValue::from_str(value) {
                response.0.headers_mut().insert(name, value);
            }
        }
        response
    }

    /// In the way of kvmd, which has the names of its exceptions there.
    fn name(&self) -> &'static str {
        match self.status {
            StatusCode::FORBIDDEN => "ForbiddenError",
            StatusCode::NOT_FOUND => "NotFoundError",
            StatusCode::METHOD_NOT_ALLOWED => "MethodNotAllowedError",
            StatusCode::REQUEST_TIMEOUT => "TimeoutError",
            StatusCode::PAYLOAD_TOO_LARGE => "PayloadTooLargeError",
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "HeadTooLargeError",
            StatusCode::SERVICE_UNAVAILABLE => "UnavailableError",
            _ => "BadRequestError",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status, crate::escape::escape(&self.text))
    }
}

#[cfg(test)]
mod tests;

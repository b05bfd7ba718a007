//! The HTTP requests and responses of kvmd's API. No I/O.

use std::fmt;

use serde::Serialize;
use tungstenite::handshake::server::{create_response, write_response};
use tungstenite::http::{self, HeaderValue, Method, StatusCode, Version, header};

use super::events::json;

/// The maximum length of a request's head, in bytes.
pub const HEAD_MAX: usize = 8 << 10;
/// The maximum number of a request's headers.
const HEADERS_MAX: usize = 64;
/// The maximum length of a client's name in the status, in bytes.
const NAME_MAX: usize = 256;

#[derive(Debug)]
pub struct HttpRequest(http::Request<()>);

#[derive(Debug, PartialEq)]
pub enum Route {
    State,
    WebSocket,
}

impl HttpRequest {
    /// Parses the head of a request. Also returns its length. `None` if the head is incomplete.
    ///
    /// # Errors
    /// The head is malformed or too long.
    pub fn parse(bytes: &[u8]) -> Result<Option<(HttpRequest, usize)>, HttpError> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut headers);
        let length = match parsed.parse(bytes) {
            Ok(httparse::Status::Complete(length)) if length <= HEAD_MAX => length,
            Ok(httparse::Status::Partial) if bytes.len() <= HEAD_MAX => return Ok(None),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => {
                let text = format!("more than {HEAD_MAX} bytes or {HEADERS_MAX} headers");
                let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                return Err(HttpError::new(status, text));
            }
            Err(error) => return Err(HttpError::bad_request(error)),
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
        let request = request.body(()).map_err(HttpError::bad_request)?;
        Ok(Some((HttpRequest(request), length)))
    }

    /// Returns the resource that is requested.
    ///
    /// # Errors
    /// The path does not exist, or does not accept this method or a body.
    pub fn route(&self) -> Result<Route, HttpError> {
        let path = self.0.uri().path();
        let (route, methods) = match path {
            "/state" => (Route::State, "GET, HEAD"),
            "/ws" => (Route::WebSocket, "GET"),
            _ => {
                let text = format!("there is no {path}: only /state and /ws");
                return Err(HttpError::new(StatusCode::NOT_FOUND, text));
            }
        };
        if !methods.split(", ").any(|name| name == self.0.method()) {
            let text = format!("{path} takes only {methods}");
            return Err(HttpError {
                allow: Some(methods),
                ..HttpError::new(StatusCode::METHOD_NOT_ALLOWED, text)
            });
        }
        let headers = self.0.headers();
        let length = headers.get(header::CONTENT_LENGTH);
        if headers.contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|l| l != "0") {
            let text = format!("{path} takes no body");
            return Err(HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, text));
        }
        Ok(route)
    }

    /// Whether the client wants the body of the response.
    pub fn wants_body(&self) -> bool {
        self.0.method() != Method::HEAD
    }

    /// Returns the response that turns the connection into a WebSocket.
    ///
    /// # Errors
    /// The request is not a valid upgrade.
    pub fn upgrade(&self) -> Result<HttpResponse, HttpError> {
        let response = create_response(&self.0).map_err(HttpError::bad_request)?;
        Ok(HttpResponse(response.map(|()| String::new())))
    }

    /// Returns the client's name for the status.
    pub fn client(&self) -> Vec<u8> {
        let agent = self.0.headers().get(header::USER_AGENT);
        let agent = agent.map_or(&b"no name"[..], |agent| agent.as_bytes());
        let agent = agent.get(..NAME_MAX).unwrap_or(agent);
        [b"kvmd API: ", agent].concat()
    }
}

#[derive(Debug)]
pub struct HttpResponse(http::Response<String>);

#[derive(Serialize)]
struct Body<T> {
    ok: bool,
    result: T,
}

impl HttpResponse {
    pub fn result(result: &impl Serialize) -> HttpResponse {
        HttpResponse::json(StatusCode::OK, &Body { ok: true, result })
    }

    fn json(status: StatusCode, body: &impl Serialize) -> HttpResponse {
        let mut response = http::Response::new(json(body) + "\n");
        *response.status_mut() = status;
        let length = response.body().len();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json; charset=utf-8"),
        );
        headers.insert(header::CONTENT_LENGTH, length.into());
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        HttpResponse(response)
    }

    pub fn bytes(&self, with_body: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Fails only for versions and header values that none of our responses has.
        let _ = write_response(&mut bytes, &self.0);
        if with_body {
            bytes.extend_from_slice(self.0.body().as_bytes());
        }
        bytes
    }
}

/// Why a request is refused.
#[derive(Debug)]
pub struct HttpError {
    status: StatusCode,
    text: String,
    /// The methods that the path accepts.
    allow: Option<&'static str>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
    error_msg: &'a str,
}

impl HttpError {
    pub(super) fn new(status: StatusCode, text: String) -> HttpError {
        HttpError {
            status,
            text,
            allow: None,
        }
    }

    fn bad_request(error: impl fmt::Display) -> HttpError {
        HttpError::new(StatusCode::BAD_REQUEST, error.to_string())
    }

    /// Returns the error's name; kvmd uses names of exceptions.
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

    pub fn response(&self) -> HttpResponse {
        let result = ErrorBody {
            error: self.name(),
            error_msg: &self.text,
        };
        let mut response = HttpResponse::json(self.status, &Body { ok: false, result });
        if let Some(methods) = self.allow {
            let headers = response.0.headers_mut();
            headers.insert(header::ALLOW, HeaderValue::from_static(methods));
        }
        response
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status, crate::escape::escape(&self.text))
    }
}

#[cfg(test)]
mod tests;

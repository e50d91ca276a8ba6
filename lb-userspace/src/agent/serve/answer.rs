//! HTTP answers as values.

use hyper::{
    Response, StatusCode,
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
};

/// An answer.
pub(super) type Answer = Response<String>;

/// A request, as far as any of our servers looks at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// `GET`, `DELETE`, ...
    pub(super) method: String,
    /// The path, as sent.
    pub(super) path: String,
    /// What follows the question mark; may be empty.
    pub(super) query: String,
}

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Plain text.
    Text,
    /// JSON.
    Json,
    /// Prometheus's text format.
    Metrics,
}

impl Content {
    const fn media_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; charset=utf-8",
            Self::Json => "application/json",
            Self::Metrics => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// An answer with this body. Browsers are told not to take it for anything else.
pub(super) fn answer(status: StatusCode, content: Content, body: impl Into<String>) -> Answer {
    let mut answer = Answer::new(body.into());
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    let media_type = HeaderValue::from_static(content.media_type());
    headers.insert(CONTENT_TYPE, media_type);
    if content != Content::Metrics {
        let name = HeaderName::from_static("x-content-type-options");
        headers.insert(name, HeaderValue::from_static("nosniff"));
    }
    answer
}

/// There is no such path.
pub(super) fn not_found() -> Answer {
    answer(StatusCode::NOT_FOUND, Content::Text, "404 page not found\n")
}

/// Status line, headers in the order of their names, and body.
#[cfg(test)]
pub(super) fn shown(answer: &Answer) -> String {
    let mut headers: Vec<String> = answer
        .headers()
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    headers.sort();
    let (status, headers, body) = (answer.status(), headers.join("\n"), answer.body());
    format!("{status}\n{headers}\n\n{body}")
}

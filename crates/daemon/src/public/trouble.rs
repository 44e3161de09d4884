//! What visitors are told who cannot be served: a small page for people, JSON for programs that ask
//! for it. Nothing of it says more than the address itself: no names, no causes, no host.

use std::time::Duration;

use api::{ErrorBody, ErrorCode};
use axum::{
    Json,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};

use crate::{app::RequestId, failure::Failure};

/// After how many seconds a page that may change by itself is loaded again.
const REFRESH: u32 = 5;
/// When to try again if there was no room, seconds.
const LATER: u64 = 2;
/// Pages have their style in them and take nothing from anywhere.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
);
const STYLE: &str = "\
    :root{color-scheme:light dark}\
    body{font:16px/1.6 system-ui,sans-serif;margin:0;min-height:100vh;display:grid;\
    place-items:center;background:Canvas;color:CanvasText}\
    main{max-width:34rem;padding:2rem}\
    h1{font-size:1.4rem;margin:0 0 .5rem}\
    p{margin:.5rem 0}\
    small{opacity:.65}";

/// Who reads the answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader {
    json: bool,
    /// Whether asking again is harmless.
    refreshes: bool,
}

impl Reader {
    pub(super) fn of(method: &Method, headers: &HeaderMap) -> Self {
        let refreshes = matches!(*method, Method::GET | Method::HEAD);
        Self { json: wants_json(headers), refreshes }
    }
}

/// Why a visitor is not served.
#[derive(Debug)]
pub(super) struct Trouble {
    code: ErrorCode,
    title: &'static str,
    text: &'static str,
    /// When it may be tried again.
    retry_after: Option<u64>,
    /// Whether a page of it loads itself again.
    refreshes: bool,
    /// What a client has to send to come in.
    challenge: Option<&'static str>,
}

impl Trouble {
    fn new(code: ErrorCode, title: &'static str, text: &'static str) -> Self {
        let (retry_after, refreshes, challenge) = (None, false, None);
        Self { code, title, text, retry_after, refreshes, challenge }
    }

    /// Nothing is published there.
    pub(super) fn unknown() -> Self {
        let text = "There is nothing at this address. It may have been withdrawn, or mistyped.";
        Self::new(ErrorCode::NotPublished, "Nothing here", text)
    }

    /// The owner stopped the sandbox.
    pub(super) fn stopped() -> Self {
        let text = "Its owner has stopped it. It will answer again once its owner starts it.";
        Self::new(ErrorCode::StoppedByOwner, "This sandbox is stopped", text)
    }

    /// Nothing answers on the port. Which one it is, is its owner's business.
    pub(super) fn closed() -> Self {
        let text = "The sandbox is running, but no server in it answers. If one is just starting \
                    there, this page will show it.";
        let trouble = Self::new(ErrorCode::PortClosed, "Nothing answers yet", text);
        Self { refreshes: true, ..trouble }
    }

    /// There is no room at the moment.
    pub(super) fn overloaded() -> Self {
        let text = "There is no room for this request right now. Please try again in a moment.";
        let trouble = Self::new(ErrorCode::HostOverloaded, "Too busy at the moment", text);
        Self { retry_after: Some(LATER), refreshes: true, ..trouble }
    }

    /// Too many requests in a short time.
    pub(super) fn limited(wait: Duration) -> Self {
        let text = "There were too many requests in a short time. Please try again in a moment.";
        let trouble = Self::new(ErrorCode::RateLimited, "Too many requests", text);
        Self { retry_after: Some(wait.as_secs() + 1), ..trouble }
    }

    /// The sandbox cannot go on without its owner.
    pub(super) fn unavailable() -> Self {
        let text = "The sandbox behind this address does not answer. Its owner has to look at it.";
        Self::new(ErrorCode::SandboxUnavailable, "This sandbox cannot be reached", text)
    }

    /// The address is not one that comes in.
    pub(super) fn forbidden() -> Self {
        let text = "This address is not open to your network.";
        Self::new(ErrorCode::Forbidden, "Not from here", text)
    }

    /// A token or password is missing or wrong.
    pub(super) fn unauthorized(challenge: &'static str) -> Self {
        let text = "This address asks for a token or a password.";
        let trouble = Self::new(ErrorCode::Unauthorized, "Not without a key", text);
        Self { challenge: Some(challenge), ..trouble }
    }

    /// The connection was made for another host.
    pub(super) fn misdirected() -> Self {
        let text = "This connection was made for another address.";
        Self::new(ErrorCode::Misdirected, "Another address", text)
    }

    /// The request is none.
    pub(super) fn odd() -> Self {
        let text = "The request could not be understood.";
        Self::new(ErrorCode::InvalidRequest, "What was that?", text)
    }

    /// What failed behind the door, in words that are anybody's to read.
    pub(super) fn from_failure(failure: Failure) -> Self {
        match failure.code {
            ErrorCode::PortClosed => Self::closed(),
            ErrorCode::SandboxNotFound => Self::unknown(),
            ErrorCode::InvalidRequest => Self::odd(),
            // No line in the log for each: anybody can have as many of them as they like.
            ErrorCode::HostOverloaded | ErrorCode::SandboxBusy => Self::overloaded(),
            ErrorCode::SandboxUnavailable => Self::unavailable(),
            _ => {
                // For the log, where the operator finds the cause.
                drop(failure.report(&RequestId::new()));
                Self::unavailable()
            }
        }
    }

    /// The answer, in the form that the client reads.
    pub(super) fn answer(self, reader: Reader) -> Response {
        let status = StatusCode::from_u16(self.code.http_status());
        let status = status.unwrap_or(StatusCode::BAD_GATEWAY);
        let mut response = if reader.json {
            let words = self.text.trim_end_matches('.').to_owned();
            (status, Json(ErrorBody::new(self.code, words))).into_response()
        } else {
            let page = self.page(status, reader.refreshes);
            let html = HeaderValue::from_static("text/html; charset=utf-8");
            (status, [(header::CONTENT_TYPE, html)], page).into_response()
        };
        let set = response.headers_mut();
        set.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        set.insert(header::CONTENT_SECURITY_POLICY, POLICY);
        set.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        set.insert(header::VARY, HeaderValue::from_static("accept"));
        set.insert("x-robots-tag", HeaderValue::from_static("noindex"));
        if let Some(seconds) = self.retry_after {
            set.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(challenge) = self.challenge {
            set.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }

    fn page(&self, status: StatusCode, may_refresh: bool) -> String {
        let refresh = match self.refreshes && may_refresh {
            true => format!("<meta http-equiv=\"refresh\" content=\"{REFRESH}\">"),
            false => String::new(),
        };
        let (title, text, number) = (self.title, self.text, status.as_u16());
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">{refresh}\
             <title>{title}</title><style>{STYLE}</style></head>\n\
             <body><main><h1>{title}</h1><p>{text}</p><p><small>{number}</small></p></main></body>\
             </html>\n"
        )
    }

    #[cfg(test)]
    pub(super) fn code(&self) -> &ErrorCode {
        &self.code
    }
}

/// Whether the client reads JSON rather than pages.
fn wants_json(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let media: Vec<&str> = accepted
        .flat_map(|value| value.split(','))
        .filter_map(|one| one.split(';').next())
        .collect();
    let has = |wanted: &str| media.iter().any(|one| one.trim().eq_ignore_ascii_case(wanted));
    has("application/json") && !has("text/html")
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn accept(value: &'static str) -> HeaderMap {
        [(header::ACCEPT, HeaderValue::from_static(value))].into_iter().collect()
    }

    async fn body(response: Response) -> String {
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn pages_stand_alone_and_programs_get_json() {
        let all = [
            (Trouble::unknown(), 404),
            (Trouble::stopped(), 503),
            (Trouble::closed(), 502),
            (Trouble::overloaded(), 503),
            (Trouble::limited(Duration::from_millis(10)), 429),
            (Trouble::unavailable(), 502),
            (Trouble::forbidden(), 403),
            (Trouble::unauthorized("Bearer"), 401),
            (Trouble::misdirected(), 421),
            (Trouble::odd(), 400),
        ];
        for (trouble, status) in all {
            let waits = trouble.retry_after.is_some();
            let page = trouble
                .answer(Reader::of(&Method::GET, &accept("text/html,application/json;q=0.9")));
            assert_eq!(page.status(), status);
            assert_eq!(page.headers().contains_key(header::RETRY_AFTER), waits);
            let html = body(page).await;
            assert!(html.starts_with("<!doctype html>") && !html.contains("//"), "{html}");
        }
        let json = Trouble::closed().answer(Reader::of(&Method::GET, &accept("application/json")));
        let told: ErrorBody = serde_json::from_str(&body(json).await).unwrap();
        assert_eq!(told.code, ErrorCode::PortClosed);
        assert!(!told.error.contains(|c: char| c.is_ascii_digit()), "{told:?}");
    }

    #[tokio::test]
    async fn only_what_may_change_is_loaded_again() {
        let refreshes = async |trouble: Trouble, method: Method| {
            body(trouble.answer(Reader::of(&method, &HeaderMap::new())))
                .await
                .contains("http-equiv")
        };
        assert!(refreshes(Trouble::closed(), Method::GET).await);
        assert!(!refreshes(Trouble::closed(), Method::POST).await);
        assert!(!refreshes(Trouble::unknown(), Method::GET).await);
    }

    #[tokio::test]
    async fn causes_stay_in_the_log() {
        let cause = std::io::Error::other("/var/lib/bhatti/secret");
        let error = orchestrator::Error::internal("the monitor said no", cause);
        let trouble = Trouble::from_failure(Failure::from(error));
        let page = body(trouble.answer(Reader::of(&Method::GET, &HeaderMap::new()))).await;
        assert!(!page.contains("secret") && !page.contains("monitor"), "{page}");
    }
}

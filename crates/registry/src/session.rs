//! Requests of one pull: who is asked, with what proof, and how far it may lead.
//!
//! ```text
//! fetch ── 401 ──► prove: a token from where the challenge says, or the credentials themselves
//!   │                │
//!   └── get ◄────────┘   follows redirects, every one through the guard; the proof stays behind
//!                        when they leave the registry
//! ```

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{
        ACCEPT, AUTHORIZATION, CONTENT_LENGTH, HOST, LOCATION, RANGE, RETRY_AFTER, USER_AGENT,
    },
};
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, body::Incoming};
use serde::Deserialize;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout, timeout_at},
};
use url::Url;

use crate::{
    Credentials, Error, Patience, Reference,
    challenge::{self, Challenge},
    client::Shared,
    connection::{self, Connection, Idle, NoTls},
    reach::{Guard, shown},
};

/// How often a request may be sent elsewhere.
const REDIRECTS_MAX: usize = 5;
/// Longest answer with a token, in bytes.
const TOKEN_MAX: u64 = 64 << 10;
const AGENT: &str = concat!("bhatti/", env!("CARGO_PKG_VERSION"));
/// An hour, which is the longest that a registry's wish for patience is believed.
const RETRY_AFTER_MAX: u64 = 3600;

/// What one pull knows of its registry.
#[derive(Debug)]
pub(crate) struct Session {
    shared: Shared,
    guard: Guard,
    /// Where the registry is, with the scheme that it speaks.
    base: Url,
    repository: String,
    credentials: Option<Credentials>,
    /// What the registry accepted last.
    proof: Mutex<Option<HeaderValue>>,
    idle: Arc<Idle>,
}

/// An answer of which the body has not been read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    /// Who answered, after all redirects.
    url: Url,
    /// Until the body has been read; then it is used again.
    connection: Option<Connection>,
    idle: Arc<Idle>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ask<'a> {
    /// Kinds of content, for `Accept`.
    pub(crate) accept: Option<&'a str>,
    /// The first byte that is wanted, if not all.
    pub(crate) from: u64,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Session {
    /// Finds out what the registry of `reference` speaks.
    pub(crate) async fn start(
        shared: Shared,
        reference: &Reference,
        credentials: Option<Credentials>,
    ) -> Result<Self, Error> {
        let host = reference.host();
        let mut base = Url::parse(&format!("https://{host}/")).map_err(|error| {
            Error::Reference { text: host.to_owned(), reason: error.to_string() }
        })?;
        let guard = Guard::new(shared.reach.clone(), shared.resolver.clone(), &base);
        if guard.may_be_plain(&base) {
            match connection::open(&guard, &shared.tls, &shared.patience, &base).await {
                Ok(_) => {}
                Err(NoTls::Failed(error)) if base.port().is_some() || !error.is_passing() => {
                    return Err(error);
                }
                Err(_) => {
                    let port = base.port();
                    base = Url::parse(&format!("http://{host}/")).unwrap_or(base);
                    let _ = base.set_port(port);
                }
            }
        }
        let repository = reference.repository().to_owned();
        let (proof, idle) = (Mutex::default(), Arc::default());
        Ok(Self { shared, guard, base, repository, credentials, proof, idle })
    }

    pub(crate) fn patience(&self) -> &Patience {
        &self.shared.patience
    }

    /// The registry, for people.
    pub(crate) fn host(&self) -> String {
        shown(&self.base)
    }

    /// Asks for `what` of the repository, such as `manifests/latest`, and proves who we are if
    /// that is wanted. The answer is one of success.
    pub(crate) async fn fetch(&self, what: &str, ask: Ask<'_>) -> Result<Answer, Error> {
        let path = format!("v2/{}/{what}", self.repository);
        let url = self.base.join(&path).map_err(|e| self.malformed(&e.to_string()))?;
        let proof = self.proof.lock().await.clone();
        let mut answer = self.get(url.clone(), ask, proof.as_ref()).await?;
        if answer.status == StatusCode::UNAUTHORIZED {
            if answer.url.origin() != self.base.origin() {
                return Err(answer.refused("it asks for credentials, but was only redirected to"));
            }
            let proof = self.prove(&answer, proof).await?;
            answer.pass_over(self.patience().answer).await;
            answer = self.get(url, ask, Some(&proof)).await?;
        }
        self.judge(answer, what)
    }

    fn judge(&self, answer: Answer, what: &str) -> Result<Answer, Error> {
        let host = shown(&answer.url);
        match answer.status {
            status if status.is_success() => Ok(answer),
            StatusCode::UNAUTHORIZED if self.credentials.is_some() => {
                Err(answer.refused("it does not accept these credentials"))
            }
            StatusCode::UNAUTHORIZED => Err(answer.refused("it wants credentials")),
            StatusCode::FORBIDDEN => Err(answer.refused("this image may not be read")),
            StatusCode::NOT_FOUND => {
                let what = format!("{} {what}", self.repository);
                Err(Error::NotFound { host, what })
            }
            StatusCode::TOO_MANY_REQUESTS => {
                Err(Error::RateLimited { host, retry_after: retry_after(&answer.headers) })
            }
            status if status.is_server_error() => {
                Err(Error::Unreachable { host, reason: format!("it answers {status}") })
            }
            status => Err(Error::Malformed { host, reason: format!("it answers {status}") }),
        }
    }

    /// Gets a proof that answers a challenge, unless another request has got one meanwhile.
    async fn prove(
        &self,
        challenged: &Answer,
        used: Option<HeaderValue>,
    ) -> Result<HeaderValue, Error> {
        let mut proof = self.proof.lock().await;
        if let Some(newer) = proof.as_ref().filter(|newer| used.as_ref() != Some(newer)) {
            return Ok(newer.clone());
        }
        let headers = challenged.headers.get_all(http::header::WWW_AUTHENTICATE);
        let challenge = challenge::parse(headers.iter().filter_map(|value| value.to_str().ok()));
        if self.credentials.is_some() && !self.may_have_credentials(&self.base) {
            return Err(challenged.refused("credentials are not sent to it without TLS"));
        }
        let new = match (challenge, &self.credentials) {
            (Some(Challenge::Bearer { realm, service }), _) => {
                self.token(&realm, service.as_deref()).await?
            }
            (Some(Challenge::Basic), Some(credentials)) => basic(credentials)?,
            (Some(Challenge::Basic), None) => {
                return Err(challenged.refused("it wants credentials"));
            }
            (None, _) => {
                return Err(challenged.refused("it wants a kind of proof that is not known here"));
            }
        };
        *proof = Some(new.clone());
        Ok(new)
    }

    /// A token that lets the repository be read. As Docker does, credentials go to wherever the
    /// registry says that tokens are had: who is given them may choose whom to ask.
    async fn token(&self, realm: &str, service: Option<&str>) -> Result<HeaderValue, Error> {
        let mut url = Url::parse(realm).map_err(|error| {
            self.malformed(&format!("tokens are to be had from no address: {error}"))
        })?;
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", service);
        }
        let scope = format!("repository:{}:pull", self.repository);
        url.query_pairs_mut().append_pair("scope", &scope);
        let proof = match &self.credentials {
            Some(_) if !self.may_have_credentials(&url) => {
                return Err(Error::Unauthorized {
                    host: self.host(),
                    reason: format!("it wants credentials sent to {} without TLS", shown(&url)),
                });
            }
            Some(credentials) => Some(basic(credentials)?),
            None => None,
        };
        let answer = self.get(url, Ask::default(), proof.as_ref()).await?;
        let answer = self.judge(answer, "token")?;
        let host = shown(&answer.url);
        let body = answer.read(TOKEN_MAX, "a token", self.patience().document).await?;
        let malformed = |reason: &str| Error::Malformed { host, reason: reason.to_owned() };
        let Ok(Token { token, access_token }) = serde_json::from_slice(&body) else {
            return Err(malformed("what should be a token is none"));
        };
        match token.or(access_token).filter(|token| !token.is_empty()) {
            Some(token) => secret(&format!("Bearer {token}")),
            None => Err(malformed("there is no token in its answer")),
        }
    }

    /// Whether nobody else can listen.
    fn may_have_credentials(&self, url: &Url) -> bool {
        url.scheme() == "https" || self.guard.is_loopback(url)
    }

    /// Asks `url` and whoever it leads to.
    async fn get(
        &self,
        mut url: Url,
        ask: Ask<'_>,
        proof: Option<&HeaderValue>,
    ) -> Result<Answer, Error> {
        let origin = url.origin();
        for _ in 0..=REDIRECTS_MAX {
            self.check_way(&url)?;
            let proof = proof.filter(|_| url.origin() == origin);
            let answer = self.once(url, ask, proof).await?;
            let (301 | 302 | 303 | 307 | 308) = answer.status.as_u16() else { return Ok(answer) };
            url = answer.next()?;
        }
        let reason = format!("it redirects more than {REDIRECTS_MAX} times");
        Err(Error::Malformed { host: self.host(), reason })
    }

    fn check_way(&self, url: &Url) -> Result<(), Error> {
        let refused = |reason| {
            let to = format!("{}://{}", url.scheme(), shown(url));
            Err(Error::ForbiddenWay { host: self.host(), to, reason })
        };
        match url.scheme() {
            "https" => {}
            "http" if self.guard.may_be_plain(url) => {}
            "http" => return refused("it has no TLS"),
            _ => return refused("it is not on the web"),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refused("it has credentials in it");
        }
        Ok(())
    }

    async fn once(
        &self,
        url: Url,
        ask: Ask<'_>,
        proof: Option<&HeaderValue>,
    ) -> Result<Answer, Error> {
        let request = request(&url, ask, proof)?;
        // The other side may have hung up on those that waited, which shows only now.
        while let Some(connection) = self.idle.take(&url) {
            if let Ok(answer) = self.send(connection, request.clone(), url.clone()).await {
                return Ok(answer);
            }
        }
        let opened = connection::open(&self.guard, &self.shared.tls, self.patience(), &url).await;
        let connection =
            opened.map_err(|(NoTls::Failed(error) | NoTls::NotSpoken(error))| error)?;
        self.send(connection, request, url).await
    }

    async fn send(
        &self,
        mut connection: Connection,
        request: Request<Empty<Bytes>>,
        url: Url,
    ) -> Result<Answer, Error> {
        let failed = |reason: String| Error::Unreachable { host: shown(&url), reason };
        let sent = async {
            connection.sender.ready().await?;
            connection.sender.send_request(request).await
        };
        let response = timeout(self.patience().answer, sent)
            .await
            .map_err(|_| failed("it does not answer".to_owned()))?
            .map_err(|error| failed(base::chain(&error)))?;
        let (head, body) = response.into_parts();
        let (status, headers) = (head.status, head.headers);
        let (connection, idle) = (Some(connection), Arc::clone(&self.idle));
        Ok(Answer { status, headers, body, url, connection, idle })
    }

    pub(crate) fn malformed(&self, reason: &str) -> Error {
        Error::Malformed { host: self.host(), reason: reason.to_owned() }
    }
}

impl Answer {
    /// Who answered, for people.
    pub(crate) fn host(&self) -> String {
        shown(&self.url)
    }

    fn refused(&self, reason: &str) -> Error {
        Error::Unauthorized { host: self.host(), reason: reason.to_owned() }
    }

    /// Where a redirect leads.
    fn next(&self) -> Result<Url, Error> {
        let malformed = |reason: String| Error::Malformed { host: self.host(), reason };
        let location = self.headers.get(LOCATION).and_then(|value| value.to_str().ok());
        let Some(location) = location else {
            return Err(malformed("it redirects to nowhere".to_owned()));
        };
        let next = self.url.join(location).map_err(|e| malformed(format!("a redirect: {e}")))?;
        if self.url.scheme() == "https" && next.scheme() == "http" {
            let to = format!("http://{}", shown(&next));
            let reason = "it has no TLS, and what leads there has";
            return Err(Error::ForbiddenWay { host: self.host(), to, reason });
        }
        Ok(next)
    }

    /// How long the body says that it is.
    pub(crate) fn length(&self) -> Option<u64> {
        self.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }

    /// The next piece of the body; `None` after the last.
    pub(crate) async fn piece(&mut self, until: Instant) -> Result<Option<Bytes>, Error> {
        let failed = |reason: String| Error::Unreachable { host: shown(&self.url), reason };
        loop {
            let frame = timeout_at(until, self.body.frame()).await;
            let frame = frame.map_err(|_| failed("it sends too slowly".to_owned()))?;
            let Some(frame) = frame else {
                if let Some(connection) = self.connection.take() {
                    self.idle.keep(&self.url, connection);
                }
                return Ok(None);
            };
            if let Ok(data) = frame.map_err(|error| failed(base::chain(&error)))?.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// Reads what nobody wants to know, if it is short, so that the connection can be used again.
    async fn pass_over(self, within: Duration) {
        if self.length().is_some_and(|length| length <= TOKEN_MAX) {
            let _ = self.read(TOKEN_MAX, "an answer", within).await;
        }
    }

    /// The whole body of something small.
    pub(crate) async fn read(
        mut self,
        limit: u64,
        what: &str,
        within: Duration,
    ) -> Result<Vec<u8>, Error> {
        let too_large = |size: u64| Err(Error::TooLarge { what: what.to_owned(), size, limit });
        if let Some(size) = self.length().filter(|size| *size > limit) {
            return too_large(size);
        }
        let until = Instant::now() + within;
        let mut body = Vec::new();
        while let Some(piece) = self.piece(until).await? {
            body.extend_from_slice(&piece);
            if body.len() as u64 > limit {
                return too_large(body.len() as u64);
            }
        }
        Ok(body)
    }
}

fn request(
    url: &Url,
    ask: Ask<'_>,
    proof: Option<&HeaderValue>,
) -> Result<Request<Empty<Bytes>>, Error> {
    let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let mut request = Request::get(target)
        .header(HOST, shown(url))
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, ask.accept.unwrap_or("*/*"));
    if let Some(proof) = proof {
        request = request.header(AUTHORIZATION, proof);
    }
    if ask.from > 0 {
        request = request.header(RANGE, format!("bytes={}-", ask.from));
    }
    request.body(Empty::new()).map_err(|error| {
        let reason = format!("it leads to what cannot be asked for: {error}");
        Error::Malformed { host: shown(url), reason }
    })
}

fn basic(credentials: &Credentials) -> Result<HeaderValue, Error> {
    let pair = format!("{}:{}", credentials.user, credentials.password);
    secret(&format!("Basic {}", BASE64_STANDARD.encode(pair)))
}

fn secret(text: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(text).map_err(|_| Error::Unauthorized {
        host: "the registry".to_owned(),
        reason: "its token has characters that cannot be sent".to_owned(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(RETRY_AFTER_MAX)))
}

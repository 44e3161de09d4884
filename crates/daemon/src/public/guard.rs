//! Tokens and passwords of publications. What opened the door stays here; any other credentials are
//! meant for the server in the sandbox.

use axum::{
    body::Body,
    http::{
        HeaderMap, HeaderValue, Method, StatusCode, header,
        request::Parts,
        uri::{PathAndQuery, Uri},
    },
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use orchestrator::publications::Guard;

use super::trouble::Trouble;

/// The parameter in a link with a token, and the cookie that it becomes.
const NAME: &str = "bhatti-token";
/// The cookie where browsers can be told that nobody else may set it, not even another host of the
/// zone.
const HOST_NAME: &str = "__Host-bhatti-token";

/// Most cookies of that name that are tried.
const COOKIES_MAX: usize = 8;

/// What a guard lets happen.
#[derive(Debug)]
pub(super) enum Passage {
    /// The request goes on, without what opened the door.
    Goes,
    /// The browser is to come again with a cookie and without the token in its address.
    Again(Response),
}

/// Where a cookie belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    /// What was taken off the path, if anything.
    pub(super) prefix: Option<&'a str>,
    /// Whether visitors come encrypted.
    pub(super) secure: bool,
}

impl Scope<'_> {
    fn cookie(self) -> &'static str {
        if self.secure && self.prefix.is_none() { HOST_NAME } else { NAME }
    }
}

/// Lets a request in or not. `original` is the address as it was sent; that of `parts` is the
/// server's.
pub(super) fn pass(
    guard: &Guard,
    parts: &mut Parts,
    original: &Uri,
    scope: Scope<'_>,
) -> Result<Passage, Trouble> {
    match guard {
        Guard::Open => Ok(Passage::Goes),
        Guard::Token { .. } => token(guard, parts, original, scope),
        Guard::Basic { .. } => {
            let opens = |value: &HeaderValue| {
                let decoded =
                    credentials(value, "basic").and_then(|text| STANDARD.decode(text).ok());
                let decoded = decoded.unwrap_or_default();
                let colon = decoded.iter().position(|byte| *byte == b':');
                colon.is_some_and(|at| guard.takes_password(&decoded[..at], &decoded[at + 1..]))
            };
            match take_authorization(&mut parts.headers, opens) {
                true => Ok(Passage::Goes),
                false => Err(Trouble::unauthorized("Basic realm=\"sandbox\", charset=\"UTF-8\"")),
            }
        }
    }
}

fn token(
    guard: &Guard,
    parts: &mut Parts,
    original: &Uri,
    scope: Scope<'_>,
) -> Result<Passage, Trouble> {
    let opens = |value: &HeaderValue| {
        credentials(value, "bearer").is_some_and(|token| guard.takes_token(token.as_bytes()))
    };
    let by_header = take_authorization(&mut parts.headers, opens);
    let cookies = take_cookies(&mut parts.headers, scope.cookie());
    let link = take_parameter(original).filter(|(token, _)| guard.takes_token(token.as_bytes()));
    match link {
        // Before the others, so that the token does not stay in the address.
        Some((token, rest)) if matches!(parts.method, Method::GET | Method::HEAD) => {
            Ok(Passage::Again(with_cookie(&token, &rest, scope)))
        }
        _ if by_header || cookies.iter().any(|token| guard.takes_token(token)) => Ok(Passage::Goes),
        _ => Err(Trouble::unauthorized("Bearer realm=\"sandbox\"")),
    }
}

/// What follows the scheme of an `Authorization`.
fn credentials<'a>(value: &'a HeaderValue, scheme: &str) -> Option<&'a str> {
    let (found, rest) = value.to_str().ok()?.split_once(' ')?;
    found.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}

/// Takes out every `Authorization` that opens, and says whether there was one.
fn take_authorization(headers: &mut HeaderMap, opens: impl Fn(&HeaderValue) -> bool) -> bool {
    let all: Vec<HeaderValue> = headers.get_all(header::AUTHORIZATION).iter().cloned().collect();
    let (ours, theirs): (Vec<_>, Vec<_>) = all.into_iter().partition(opens);
    headers.remove(header::AUTHORIZATION);
    for value in theirs {
        headers.append(header::AUTHORIZATION, value);
    }
    !ours.is_empty()
}

/// Takes our cookies out, those of this name, and leaves the others as they are. Another alias may
/// have set one for all, so there may be several.
fn take_cookies(headers: &mut HeaderMap, name: &str) -> Vec<Vec<u8>> {
    let value_of = |pair: &[u8], name: &str| {
        let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(value.to_vec())
    };
    let other = if name == NAME { HOST_NAME } else { NAME };
    let mut strange = false;
    let mut found = Vec::new();
    let mut kept = Vec::new();
    for value in headers.get_all(header::COOKIE) {
        let pairs = value.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let mut others: Vec<&[u8]> = Vec::new();
        for pair in pairs {
            match value_of(pair, name) {
                Some(token) => found.push(token),
                None if value_of(pair, other).is_some() => strange = true,
                None => others.push(pair),
            }
        }
        if let Ok(rest) = HeaderValue::from_bytes(&others.join(&b"; "[..]))
            && !rest.is_empty()
        {
            kept.push(rest);
        }
    }
    if strange || !found.is_empty() {
        headers.remove(header::COOKIE);
        for value in kept {
            headers.append(header::COOKIE, value);
        }
    }
    found.truncate(COOKIES_MAX);
    found
}

/// The token in an address, and the address without it.
fn take_parameter(uri: &Uri) -> Option<(String, String)> {
    let query = uri.query()?;
    let is_ours = |pair: &&str| pair.split_once('=').is_some_and(|(name, _)| name == NAME);
    let token = query.split('&').find(is_ours)?.split_once('=')?.1.to_owned();
    let others: Vec<&str> = query.split('&').filter(|pair| !is_ours(pair)).collect();
    let rest = match others.is_empty() {
        true => uri.path().to_owned(),
        false => format!("{}?{}", uri.path(), others.join("&")),
    };
    // Two slashes at the beginning would lead to another host.
    let rest = format!("/{}", rest.trim_start_matches(['/', '\\']));
    PathAndQuery::try_from(rest.as_str()).is_ok().then_some((token, rest))
}

fn with_cookie(token: &str, rest: &str, scope: Scope<'_>) -> Response {
    let name = scope.cookie();
    let rest = match scope.prefix.and_then(|prefix| rest.strip_prefix(prefix)) {
        // The cookie is for what is below, and the server's own redirect would be without it.
        Some(below) if !below.starts_with('/') => {
            format!("{}/{below}", scope.prefix.unwrap_or_default())
        }
        _ => rest.to_owned(),
    };
    let path = scope.prefix.map_or("/".to_owned(), |prefix| format!("{prefix}/"));
    let secure = if scope.secure { "; Secure" } else { "" };
    let cookie = format!("{name}={token}; Path={path}; HttpOnly; SameSite=Lax{secure}");
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    for (name, value) in [
        (header::SET_COOKIE, cookie.as_str()),
        (header::LOCATION, rest.as_str()),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    const SCOPE: Scope<'_> = Scope { prefix: None, secure: true };

    fn token_guard() -> Guard {
        Guard::Token { sha256: base::hash::bytes(b"bpt_1") }
    }

    fn basic_guard() -> Guard {
        Guard::Basic { user: "me".into(), sha256: base::hash::bytes(b"pass:word") }
    }

    fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let request = headers.iter().fold(Request::builder().uri(uri), |request, (name, value)| {
            request.header(*name, *value)
        });
        request.body(()).unwrap().into_parts().0
    }

    fn goes(guard: &Guard, parts: &mut Parts) -> bool {
        let uri = parts.uri.clone();
        matches!(pass(guard, parts, &uri, SCOPE), Ok(Passage::Goes))
    }

    #[test]
    fn an_open_door_takes_nothing() {
        let mut sent = parts("/", &[("authorization", "Bearer bht_x"), ("cookie", "a=b")]);
        assert!(goes(&Guard::Open, &mut sent));
        assert_eq!(sent.headers["authorization"], "Bearer bht_x");
    }

    #[test]
    fn what_opened_the_door_stays_here() {
        let mut sent = parts("/", &[("authorization", "bearer bpt_1"), ("authorization", "x y")]);
        assert!(goes(&token_guard(), &mut sent));
        assert_eq!(sent.headers.get_all("authorization").iter().collect::<Vec<_>>(), ["x y"]);
        let cookies =
            [("cookie", "a=1; __Host-bhatti-token=bpt_1; b=2"), ("authorization", "Bearer own")];
        let mut sent = parts("/", &cookies);
        assert!(goes(&token_guard(), &mut sent));
        assert_eq!(sent.headers["cookie"], "a=1; b=2");
        assert_eq!(sent.headers["authorization"], "Bearer own");
        let basic = format!("Basic {}", STANDARD.encode("me:pass:word"));
        let mut sent = parts("/", &[("authorization", &basic)]);
        assert!(goes(&basic_guard(), &mut sent));
        assert!(!sent.headers.contains_key("authorization"));
    }

    #[test]
    fn cookies_of_others_do_not_hide_ours() {
        let mut sent = parts("/", &[]);
        let cookies = b"name=J\xc3\xbcrgen; __Host-bhatti-token=another; \
                        __Host-bhatti-token=bpt_1; b=2; bhatti-token=x";
        sent.headers.insert("cookie", HeaderValue::from_bytes(cookies).unwrap());
        assert!(goes(&token_guard(), &mut sent));
        assert_eq!(sent.headers["cookie"].as_bytes(), b"name=J\xc3\xbcrgen; b=2");
        // What any host of the zone can set opens nothing and keeps nobody out.
        let tossed = "bhatti-token=x; ".repeat(100) + "__Host-bhatti-token=bpt_1";
        assert!(goes(&token_guard(), &mut parts("/", &[("cookie", &tossed)])));
        assert!(!goes(&token_guard(), &mut parts("/", &[("cookie", "bhatti-token=bpt_1")])));
        let many = "__Host-bhatti-token=x; ".repeat(100) + "__Host-bhatti-token=bpt_1";
        assert!(!goes(&token_guard(), &mut parts("/", &[("cookie", &many)])));
    }

    #[test]
    fn a_link_is_followed_whatever_else_would_open() {
        let uri = "/?bhatti-token=bpt_1".parse().unwrap();
        let mut sent = parts("/", &[("cookie", "__Host-bhatti-token=bpt_1")]);
        let passed = pass(&token_guard(), &mut sent, &uri, SCOPE);
        assert!(matches!(passed, Ok(Passage::Again(_))), "{passed:?}");
    }

    #[test]
    fn nothing_else_opens_it() {
        for header in ["Bearer bpt_2", "Bearer ", "bpt_1", "Basic bpt_1", "Bearer bpt_1x"] {
            assert!(
                !goes(&token_guard(), &mut parts("/", &[("authorization", header)])),
                "{header}"
            );
        }
        let wrong = ["me:pass", "you:pass:word", "me", "", ":pass:word"];
        let encoded = wrong.map(|wrong| format!("Basic {}", STANDARD.encode(wrong)));
        for header in encoded.iter().map(String::as_str).chain(["Basic ?", "Bearer bpt_1"]) {
            assert!(
                !goes(&basic_guard(), &mut parts("/", &[("authorization", header)])),
                "{header}"
            );
        }
        let trouble = pass(&token_guard(), &mut parts("/", &[]), &Uri::default(), SCOPE);
        assert_eq!(trouble.unwrap_err().code().http_status(), 401);
    }

    #[test]
    fn a_link_becomes_a_cookie() {
        let again = |uri: &str, prefix| {
            let scope = Scope { prefix, ..SCOPE };
            let mut sent = parts(uri, &[]);
            match pass(&token_guard(), &mut sent, &uri.parse().unwrap(), scope) {
                Ok(Passage::Again(response)) => {
                    let header = |name| response.headers()[name].to_str().unwrap().to_owned();
                    (header("location"), header("set-cookie"))
                }
                other => panic!("{uri}: {other:?}"),
            }
        };
        let (place, cookie) = again("/a%2F?x=1&bhatti-token=bpt_1&y", None);
        assert_eq!(place, "/a%2F?x=1&y");
        assert_eq!(cookie, "__Host-bhatti-token=bpt_1; Path=/; HttpOnly; SameSite=Lax; Secure");
        let (place, cookie) = again("/web/?bhatti-token=bpt_1", Some("/web"));
        assert_eq!(place, "/web/");
        assert!(
            cookie.starts_with("bhatti-token=") && cookie.contains("; Path=/web/;"),
            "{cookie}"
        );
        // Where the cookie is sent to.
        assert_eq!(again("/web?bhatti-token=bpt_1&x", Some("/web")).0, "/web/?x");
        assert_eq!(again("/web?bhatti-token=bpt_1", Some("/web")).0, "/web/");
        assert_eq!(again("//evil.example/?bhatti-token=bpt_1", None).0, "/evil.example/");
        assert!(
            pass(
                &token_guard(),
                &mut parts("/", &[]),
                &"/?bhatti-token=bpt_2".parse().unwrap(),
                SCOPE
            )
            .is_err()
        );
    }
}

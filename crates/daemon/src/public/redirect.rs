//! The plain port beside the encrypted one: it says where everything is, and answers an authority that
//! looks whether a name is ours. Nothing of a sandbox is reached here.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::{StatusCode, header, uri::Authority},
    response::{IntoResponse as _, Response},
};

use super::Site;
use crate::tls::Acme;

/// What the port needs to know.
#[derive(Debug)]
struct Redirect {
    site: Site,
    acme: Option<Arc<Acme>>,
}

/// The whole of what the plain port serves.
pub(crate) fn router(site: Site, acme: Option<Arc<Acme>>) -> Router {
    Router::new().fallback(serve).with_state(Arc::new(Redirect { site, acme }))
}

async fn serve(State(redirect): State<Arc<Redirect>>, request: Request) -> Response {
    let answer = redirect.acme.as_ref().and_then(|acme| acme.over_http(request.uri().path()));
    if let Some(answer) = answer {
        return ([(header::CONTENT_TYPE, "application/octet-stream")], answer).into_response();
    }
    match redirect.place(&request) {
        Some(place) => {
            let head = [(header::LOCATION, place), (header::CACHE_CONTROL, "no-store".to_owned())];
            (StatusCode::PERMANENT_REDIRECT, head).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

impl Redirect {
    /// Where the same is found encrypted. Nobody is sent to a host that is not ours.
    fn place(&self, request: &Request) -> Option<String> {
        let said = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        let host = said.and_then(|said| said.parse::<Authority>().ok());
        let host = host.map(|host| host.host().to_ascii_lowercase());
        let host = match (&self.site.zone, host) {
            (Some(zone), Some(host)) => {
                let rest = host.strip_suffix(zone.as_str())?;
                (rest.is_empty() || rest.ends_with('.')).then_some(host)?
            }
            (Some(_), None) => return None,
            (None, _) => self.site.origin.host.clone(),
        };
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let path = path.strip_prefix('/')?;
        Some(format!("{}{path}", self.site.origin.url(&host)))
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::{super::Origin, *};

    fn place(zone: Option<&str>, port: u16, host: &str, path: &str) -> Option<String> {
        let host_of = zone.unwrap_or("box.example").to_owned();
        let origin = Origin { secure: true, host: host_of, port };
        let site = Site { zone: zone.map(str::to_owned), origin };
        let request = Request::builder().uri(path).header("host", host);
        Redirect { site, acme: None }.place(&request.body(Body::empty()).unwrap())
    }

    #[test]
    fn everybody_is_sent_to_the_same_place_encrypted() {
        let zone = Some("pub.example");
        for (zone, port, host, path, expected) in [
            (zone, 443, "Web.pub.example:80", "/a%20?b", Some("https://web.pub.example/a%20?b")),
            (zone, 8443, "pub.example", "/", Some("https://pub.example:8443/")),
            (None, 443, "anything", "/web/", Some("https://box.example/web/")),
            (zone, 443, "evil.example", "/", None),
            (zone, 443, "evilpub.example", "/", None),
            (zone, 443, "a@b", "/", None),
            (None, 443, "x", "//evil.example", Some("https://box.example//evil.example")),
        ] {
            assert_eq!(place(zone, port, host, path).as_deref(), expected, "{host}{path}");
        }
    }
}

//! The page of a shared terminal and what it loads: all of it ours to serve, nothing from elsewhere.

use std::sync::LazyLock;

use axum::{
    extract::Path,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};

const PAGE: &str = include_str!("../../web/terminal.html");

/// Everything that the page loads. Under one version, so that files name each other by plain names
/// and may be kept for ever.
const ASSETS: [Asset; 8] = [
    Asset::script("terminal.js", include_bytes!("../../web/terminal.js")),
    Asset::script(
        "xterm.mjs",
        include_bytes!(concat!(env!("BHATTI_WEB"), "/@xterm/xterm/lib/xterm.mjs")),
    ),
    Asset::script(
        "addon-fit.mjs",
        include_bytes!(concat!(env!("BHATTI_WEB"), "/@xterm/addon-fit/lib/addon-fit.mjs")),
    ),
    Asset::style("terminal.css", include_bytes!("../../web/terminal.css")),
    Asset::style(
        "xterm.css",
        include_bytes!(concat!(env!("BHATTI_WEB"), "/@xterm/xterm/css/xterm.css")),
    ),
    Asset {
        name: "icon.svg",
        kind: "image/svg+xml",
        content: include_bytes!("../../web/icon.svg"),
    },
    Asset::text(
        "xterm.LICENSE.txt",
        include_bytes!(concat!(env!("BHATTI_WEB"), "/@xterm/xterm/LICENSE")),
    ),
    Asset::text(
        "addon-fit.LICENSE.txt",
        include_bytes!(concat!(env!("BHATTI_WEB"), "/@xterm/addon-fit/LICENSE")),
    ),
];

/// Digits of the version: enough to tell builds apart.
const VERSION_DIGITS: usize = 16;

/// Of all that is loaded, so that it changes with any of it.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let parts = ASSETS.iter().flat_map(|asset| [asset.name.as_bytes(), asset.content]);
    let mut version = base::hash::key(parts);
    version.truncate(VERSION_DIGITS);
    version
});

struct Asset {
    name: &'static str,
    kind: &'static str,
    content: &'static [u8],
}

impl Asset {
    const fn script(name: &'static str, content: &'static [u8]) -> Self {
        Self { name, kind: "text/javascript; charset=utf-8", content }
    }

    const fn style(name: &'static str, content: &'static [u8]) -> Self {
        Self { name, kind: "text/css; charset=utf-8", content }
    }

    const fn text(name: &'static str, content: &'static [u8]) -> Self {
        Self { name, kind: "text/plain; charset=utf-8", content }
    }
}

/// The page, whatever the share and whether there is one.
pub(super) async fn page() -> Response {
    let nonce = base::random::hex::<16>();
    let page = PAGE.replace("{nonce}", &nonce).replace("{assets}", &format!("assets/{}", *VERSION));
    // Scripts only with this answer's nonce: of a site whose aliases are paths, other people's
    // scripts have the same origin. The terminal makes style sheets of its own, with the nonce.
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    let mut response = page.into_response();
    let set = response.headers_mut();
    // Digits and words only.
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        set.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("x-robots-tag"), "noindex"),
        (
            HeaderName::from_static("permissions-policy"),
            "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
        ),
    ] {
        set.insert(name, HeaderValue::from_static(value));
    }
    guard(&mut response);
    response
}

/// One file of those that the page loads.
pub(super) async fn asset(Path((version, name)): Path<(String, String)>) -> Response {
    let found = ASSETS.iter().find(|asset| asset.name == name).filter(|_| version == *VERSION);
    let Some(asset) = found else { return StatusCode::NOT_FOUND.into_response() };
    let mut response = asset.content.into_response();
    let set = response.headers_mut();
    set.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.kind));
    let forever = HeaderValue::from_static("public, max-age=31536000, immutable");
    set.insert(header::CACHE_CONTROL, forever);
    guard(&mut response);
    response
}

fn guard(response: &mut Response) {
    for (name, value) in [
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
}

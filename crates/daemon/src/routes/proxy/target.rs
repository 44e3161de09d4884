//! Where a request of the proxy route is to go, read from its path as it was sent.

use std::borrow::Cow;

use axum::http::{Uri, uri::PathAndQuery};

/// The parts of `/sandboxes/ID/proxy/PORT/REST`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    /// Name or id of the sandbox, as it was sent.
    id: &'a str,
    /// What should be a port.
    pub(super) port: &'a str,
    /// From the slash after the port to the end of the path, byte by byte; `None` if there is no
    /// such slash.
    rest: Option<&'a str>,
    query: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// `None` if the path is not of the route.
    pub(super) fn of(uri: &'a Uri) -> Option<Self> {
        let (id, after) = uri.path().strip_prefix("/sandboxes/")?.split_once('/')?;
        let after = after.strip_prefix("proxy/")?;
        let (port, rest) = after.split_at(after.find('/').unwrap_or(after.len()));
        Some(Self {
            id,
            port,
            rest: Some(rest).filter(|rest| !rest.is_empty()),
            query: uri.query(),
        })
    }

    /// Name or id of the sandbox.
    pub(super) fn id(&self) -> Cow<'a, str> {
        decoded(self.id)
    }

    /// What the server in the sandbox is asked for.
    pub(super) fn for_guest(&self) -> Option<Uri> {
        let text = self.with_query(self.rest.unwrap_or("/"));
        PathAndQuery::try_from(text).ok().map(Uri::from)
    }

    /// Where the same is found with the slash that relative links need; `None` if it is there.
    pub(super) fn with_slash(&self) -> Option<String> {
        // Relative to the last part of the path, so that a prefix that somebody in between has
        // taken off stays.
        self.rest.is_none().then(|| self.with_query(&format!("{}/", self.port)))
    }

    fn with_query(&self, path: &str) -> String {
        match self.query {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        }
    }
}

/// Undoes percent-encoding; what is none is left as it is.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return text.into();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = match *after {
            [high, low, ..] if first == b'%' => hex(high).zip(hex(low)),
            _ => None,
        };
        match code.map(|(high, low)| high << 4 | low) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned().into()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn the_slash_after_the_port_is_told_from_none() {
        let bare = uri("/sandboxes/a/proxy/80?x=1&y");
        let bare = Target::of(&bare).unwrap();
        assert_eq!(bare.with_slash().as_deref(), Some("80/?x=1&y"));
        assert_eq!(bare.for_guest().unwrap(), "/?x=1&y");
        let slash = uri("http://host/sandboxes/a/proxy/80/");
        let slash = Target::of(&slash).unwrap();
        assert_eq!((slash.with_slash(), slash.for_guest().unwrap()), (None, uri("/")));
        assert_eq!(Target::of(&uri("/sandboxes/a/proxy")), None);
        assert_eq!(Target::of(&uri("/")), None);
    }

    #[test]
    fn names_are_decoded_and_nothing_else_is() {
        let encoded = uri("/sandboxes/my%2dbox/proxy/80/%2e%2E/a%2Fb//%ff?q=%20&?");
        let target = Target::of(&encoded).unwrap();
        assert_eq!((target.id().as_ref(), target.port), ("my-box", "80"));
        assert_eq!(target.for_guest().unwrap(), "/%2e%2E/a%2Fb//%ff?q=%20&?");
        assert_eq!(decoded("%"), "%");
        assert_eq!(decoded("%zz%4"), "%zz%4");
        assert_eq!(decoded("%+1"), "%+1");
    }

    proptest! {
        #[test]
        fn the_rest_is_the_same_byte_by_byte(
            id in "[a-z0-9-]{1,20}", port in "[0-9]{1,5}",
            rest in "(/|%[0-9a-fA-F]{2}|[a-zA-Z0-9._~!$&'()*+,;=:@-]){0,40}",
            query in proptest::option::of("(%[0-9a-f]{2}|[a-zA-Z0-9/?=&+:@]){0,20}"),
        ) {
            let query = query.map(|query| format!("?{query}")).unwrap_or_default();
            let sent = uri(&format!("/sandboxes/{id}/proxy/{port}/{rest}{query}"));
            let target = Target::of(&sent).unwrap();
            prop_assert_eq!((target.id().into_owned(), target.port), (id, port.as_str()));
            let got = target.for_guest().unwrap().to_string();
            prop_assert_eq!(got, format!("/{rest}{query}"));
        }
    }
}

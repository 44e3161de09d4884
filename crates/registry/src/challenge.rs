//! What a registry says it wants to know (`WWW-Authenticate`).

/// How a client may prove who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// By a token from somewhere.
    Bearer {
        /// Where the token is had.
        realm: String,
        /// Whom it is for.
        service: Option<String>,
    },
    /// By name and password.
    Basic,
}

/// The best of what is offered: tokens before passwords. `None` if nothing is understood.
pub(crate) fn parse<'a>(headers: impl IntoIterator<Item = &'a str>) -> Option<Challenge> {
    let mut offered: Vec<Challenge> = headers.into_iter().flat_map(offers).collect();
    let bearer = offered.iter().position(|offer| matches!(offer, Challenge::Bearer { .. }));
    match bearer {
        Some(at) => Some(offered.swap_remove(at)),
        None => offered.pop(),
    }
}

fn offers(header: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut scheme = String::new();
    let mut parameters: Vec<(String, String)> = Vec::new();
    for word in words(header) {
        match word {
            Word::Scheme(next) => {
                found.extend(offer(&scheme, &parameters));
                (scheme, parameters) = (next, Vec::new());
            }
            Word::Parameter(name, value) => parameters.push((name, value)),
        }
    }
    found.extend(offer(&scheme, &parameters));
    found
}

fn offer(scheme: &str, parameters: &[(String, String)]) -> Option<Challenge> {
    let get = |wanted: &str| {
        parameters.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone())
    };
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer { realm: get("realm")?, service: get("service") }),
        _ => None,
    }
}

enum Word {
    Scheme(String),
    Parameter(String, String),
}

fn words(header: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        if end == 0 {
            return words;
        }
        let name = rest[..end].to_ascii_lowercase();
        rest = &rest[end..];
        if let Some(after) = rest.strip_prefix('=') {
            let (value, after) = value(after);
            words.push(Word::Parameter(name, value));
            rest = after;
        } else {
            words.push(Word::Scheme(name));
        }
    }
}

/// A value, quoted or not, and what comes after it.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            '\\' if !escaped => escaped = true,
            '"' if !escaped => return (value, &quoted[at + 1..]),
            c => {
                value.push(c);
                escaped = false;
            }
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) })
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let hub = "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",\
                   scope=\"repository:library/alpine:pull\"";
        let expected = bearer("https://auth.docker.io/token", Some("registry.docker.io"));
        assert_eq!(parse([hub]), expected);
        assert_eq!(parse(["Basic realm=\"x\", charset=utf-8"]), Some(Challenge::Basic));
        assert_eq!(parse(["Basic"]), Some(Challenge::Basic));
        assert_eq!(parse(["Basic realm=x", "bearer REALM=y"]), bearer("y", None));
        assert_eq!(
            parse(["Negotiate, Basic realm=\"a, b=c\", Bearer realm=\"d\\\"e\""]),
            bearer("d\"e", None)
        );
        assert_eq!(parse(["Digest realm=\"x\""]), None);
        assert_eq!(parse(["Bearer service=\"x\""]), None);
        assert_eq!(parse(["", "=", "\"", "Bearer realm=\""]), bearer("", None));
    }

    proptest! {
        #[test]
        fn any_header_ends(header in "[ -~\u{e9}]{0,60}") {
            let _ = parse([header.as_str()]);
        }
    }
}

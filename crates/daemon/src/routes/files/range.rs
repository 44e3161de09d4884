//! The `Range` header, as far as it is served: one range of bytes.

use axum::http::{HeaderMap, header};

/// One range of bytes, before the size is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Range {
    /// From a byte, counted from 0, to another or to the end.
    From { first: u64, last: Option<u64> },
    /// That many bytes at the end.
    Suffix(u64),
}

impl Range {
    /// What the headers ask for. `None` means the whole file: there is no range, or several, or one
    /// that makes no sense, or it depends on a validator, and answers have none.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(header::RANGE).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        if headers.contains_key(header::IF_RANGE) {
            return None;
        }
        Self::parse(value.to_str().ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let (unit, spec) = text.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (first, last) = spec.trim_matches([' ', '\t']).split_once('-')?;
        match (first, last) {
            ("", suffix) => Some(Self::Suffix(number(suffix)?)),
            (first, "") => Some(Self::From { first: number(first)?, last: None }),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From { first, last: Some(last) })
            }
        }
    }

    /// First byte and number of bytes in a file of that size; `None` if there are none.
    pub(super) fn within(self, size: u64) -> Option<(u64, u64)> {
        let (first, end) = match self {
            Self::From { first, last } => {
                (first, last.map_or(size, |last| last.saturating_add(1).min(size)))
            }
            Self::Suffix(count) => (size.saturating_sub(count), size),
        };
        (first < end).then(|| (first, end - first))
    }
}

/// A number of digits only. One that is too large is as large as can be, and so are files.
fn number(digits: &str) -> Option<u64> {
    let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_single_range_of_bytes_means_the_whole_file() {
        for text in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=1",
            "bytes=2-1",
            "bytes=1-2,4-5",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=1 - 2",
            "bytes=-+1",
            "lines=1-2",
            "bytes=1--2",
            "bytes=,1-2",
        ] {
            assert_eq!(Range::parse(text), None, "{text:?}");
        }
        let asked = |pairs: &[(header::HeaderName, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(name.clone(), HeaderValue::from_static(value));
            }
            Range::of(&headers)
        };
        let one = (header::RANGE, "bytes=0-1");
        let single = std::slice::from_ref(&one);
        assert_eq!(asked(single), Some(Range::From { first: 0, last: Some(1) }));
        assert_eq!(asked(&[one.clone(), one.clone()]), None);
        assert_eq!(asked(&[one, (header::IF_RANGE, "\"tag\"")]), None);
    }

    #[test]
    fn numbers_beyond_any_file_are_no_mistake() {
        let huge = "99999999999999999999999999";
        let range = Range::parse(&format!("Bytes=1-{huge}")).unwrap();
        assert_eq!(range.within(10), Some((1, 9)));
        assert_eq!(Range::parse(&format!("bytes={huge}-")).unwrap().within(u64::MAX), None);
        assert_eq!(Range::parse(&format!("bytes=-{huge}")).unwrap().within(3), Some((0, 3)));
    }

    /// The same by looking at every byte.
    fn model(range: Range, size: u64) -> Vec<u64> {
        (0..size)
            .filter(|byte| match range {
                Range::From { first, last } => {
                    *byte >= first && last.is_none_or(|last| *byte <= last)
                }
                Range::Suffix(count) => size - byte <= count,
            })
            .collect()
    }

    proptest! {
        #[test]
        fn the_bytes_are_those_of_the_model(
            first in 0..70_u64, last in proptest::option::of(0..70_u64),
            suffix in any::<bool>(), size in 0..64_u64,
        ) {
            let text = match (suffix, last) {
                (true, _) => format!("bytes=-{first}"),
                (false, None) => format!("bytes={first}-"),
                (false, Some(last)) => format!("bytes={first}-{last}"),
            };
            match Range::parse(&text) {
                None => prop_assert!(last.is_some_and(|last| first > last)),
                Some(range) => {
                    let (from, count) = range.within(size).unwrap_or_default();
                    prop_assert_eq!((from..from + count).collect::<Vec<_>>(), model(range, size));
                }
            }
        }

        #[test]
        fn any_text_is_judged_without_panic(text in "(bytes)?=?[0-9 ,-]{0,30}", size in any::<u64>()) {
            if let Some((first, count)) = Range::parse(&text).and_then(|range| range.within(size)) {
                prop_assert!(count > 0 && first + count <= size);
            }
        }
    }
}

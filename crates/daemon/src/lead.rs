//! Bodies that begin with a line of JSON and go on with bytes.

use api::ErrorCode;
use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use crate::{body::JSON_TIME, failure::Failure};

/// What follows the first line of a body, as it comes.
#[derive(Debug)]
pub(crate) struct Rest {
    /// What came together with the line.
    ahead: Bytes,
    body: Body,
}

/// A body that ended before it was complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken;

/// Whether the body is of that media type.
pub(crate) fn is_of_type(headers: &HeaderMap, wanted: &str) -> bool {
    let sent = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = sent.and_then(|value| value.split(';').next());
    kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case(wanted))
}

/// Takes the first line of a body, of at most `limit` bytes and without its end; all of the body if
/// it has no line end.
pub(crate) async fn split(body: Body, limit: usize) -> Result<(Bytes, Rest), Failure> {
    let mut rest = Rest { ahead: Bytes::new(), body };
    let line = timeout(JSON_TIME, first_line(&mut rest, limit)).await.map_err(|_| {
        Failure::new(ErrorCode::Timeout, "the body's first line did not arrive in time")
    })??;
    Ok((line, rest))
}

async fn first_line(rest: &mut Rest, limit: usize) -> Result<Bytes, Failure> {
    let mut line = BytesMut::new();
    loop {
        let piece = rest.next().await.map_err(|Broken| {
            Failure::new(ErrorCode::InvalidRequest, "the body ended within its first line")
        })?;
        let Some(mut piece) = piece else { return Ok(line.freeze()) };
        let end = piece.iter().position(|byte| *byte == b'\n');
        let length = end.unwrap_or(piece.len());
        if line.len() + length > limit {
            let message = format!("the body's first line is longer than {limit} bytes");
            return Err(Failure::new(ErrorCode::BodyTooLarge, message));
        }
        line.extend_from_slice(&piece[..length]);
        if end.is_some() {
            piece.advance(length + 1);
            rest.ahead = piece;
            return Ok(line.freeze());
        }
    }
}

impl Rest {
    /// The next bytes, never none of them; `None` at the proper end. May be abandoned.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        if !self.ahead.is_empty() {
            return Ok(Some(std::mem::take(&mut self.ahead)));
        }
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.map_err(|_| Broken)?.into_data()
                && !data.is_empty()
            {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use futures_util::stream;
    use proptest::prelude::*;

    use super::*;

    fn body(pieces: Vec<Result<Vec<u8>, io::Error>>) -> Body {
        Body::from_stream(stream::iter(pieces))
    }

    async fn all(mut rest: Rest) -> Result<Vec<u8>, Broken> {
        let mut all = Vec::new();
        while let Some(piece) = rest.next().await? {
            assert!(!piece.is_empty());
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    /// Cuts bytes at any places; some pieces are empty.
    fn cut(bytes: &[u8], places: &[prop::sample::Index]) -> Vec<Vec<u8>> {
        let mut places: Vec<usize> = places.iter().map(|at| at.index(bytes.len() + 1)).collect();
        places.extend([0, bytes.len()]);
        places.sort_unstable();
        places.windows(2).map(|ends| bytes[ends[0]..ends[1]].to_vec()).collect()
    }

    proptest! {
        #[test]
        fn a_line_and_the_rest_survive_any_cutting(
            line in proptest::collection::vec(any::<u8>().prop_filter("line end", |b| *b != b'\n'), 0..200),
            rest in proptest::collection::vec(any::<u8>(), 0..400),
            has_end: bool,
            places in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let mut sent = line.clone();
            let rest = if has_end { rest } else { Vec::new() };
            if has_end {
                sent.push(b'\n');
                sent.extend_from_slice(&rest);
            }
            let pieces = cut(&sent, &places).into_iter().map(Ok).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let got = runtime.block_on(async {
                let (first, rest) = split(body(pieces), line.len()).await.unwrap();
                (first, all(rest).await.unwrap())
            });
            prop_assert_eq!(&got.0[..], &line[..]);
            prop_assert_eq!(got.1, rest);
        }
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_or_breaks_off_is_refused() {
        let (code, _) = refused(vec![Ok(b"12345".to_vec()), Ok(b"6\n".to_vec())], 5).await;
        assert_eq!(code, ErrorCode::BodyTooLarge);
        let (code, told) = refused(vec![Ok(b"1".to_vec()), Err(io::Error::other("gone"))], 5).await;
        assert_eq!(code, ErrorCode::InvalidRequest);
        assert!(told.contains("first line"), "{told}");
    }

    async fn refused(pieces: Vec<Result<Vec<u8>, io::Error>>, limit: usize) -> (ErrorCode, String) {
        let failure = split(body(pieces), limit).await.unwrap_err();
        (failure.code.clone(), failure.report(&crate::app::RequestId::new()).error)
    }

    #[tokio::test]
    async fn a_rest_that_breaks_off_does_not_look_complete() {
        let pieces = vec![Ok(b"a\nb".to_vec()), Err(io::Error::other("gone"))];
        let (_, rest) = split(body(pieces), 5).await.unwrap();
        assert_eq!(all(rest).await, Err(Broken));
    }

    #[test]
    fn media_types_may_have_parameters() {
        let of = |value: &'static str| {
            let headers = [(header::CONTENT_TYPE, value.parse().unwrap())].into_iter().collect();
            is_of_type(&headers, api::headers::NDJSON)
        };
        assert!(of("application/x-ndjson") && of("Application/X-NDJSON ; charset=utf-8"));
        assert!(!of("application/json") && !of("application/x-ndjsonish"));
        assert!(!is_of_type(&HeaderMap::new(), api::headers::NDJSON));
    }
}

//! Bodies: JSON in, lines of JSON out.

use std::{convert::Infallible, time::Duration};

use api::{ErrorCode, headers};
use axum::{
    body::Body,
    http::{HeaderMap, Uri, header},
    response::{IntoResponse as _, Response},
};
use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use http_body_util::BodyExt as _;
use serde::{Serialize, de::DeserializeOwned};

use crate::failure::Failure;

/// How long a JSON body may take to arrive.
pub(crate) const JSON_TIME: Duration = Duration::from_secs(30);

/// Reads a JSON body of at most `limit` bytes.
pub(crate) async fn json<T: DeserializeOwned>(body: Body, limit: usize) -> Result<T, Failure> {
    parse(&collect(body, limit).await?)
}

/// As [`json`]; no body means the default.
pub(crate) async fn json_or_default<T: DeserializeOwned + Default>(
    body: Body,
    limit: usize,
) -> Result<T, Failure> {
    let bytes = collect(body, limit).await?;
    if bytes.trim_ascii().is_empty() { Ok(T::default()) } else { parse(&bytes) }
}

/// Reads a query string.
pub(crate) fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Failure> {
    let parsed = axum::extract::Query::try_from_uri(uri);
    let parsed =
        parsed.map_err(|error| Failure::new(ErrorCode::InvalidRequest, error.body_text()))?;
    Ok(parsed.0)
}

/// Whether the client wants events as they happen.
pub(crate) fn wants_events(request: &HeaderMap) -> bool {
    let values = request.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .filter_map(|item| item.split(';').next())
        .any(|kind| kind.trim().eq_ignore_ascii_case(headers::NDJSON))
}

/// An answer made of lines; each is sent when it is there.
pub(crate) fn lines(stream: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    use futures_util::StreamExt as _;
    let body = Body::from_stream(stream.map(Ok::<_, Infallible>));
    ([(header::CONTENT_TYPE, headers::NDJSON)], body).into_response()
}

/// One line.
pub(crate) fn line(event: &impl Serialize) -> Bytes {
    match serde_json::to_vec(event) {
        Ok(mut json) => {
            json.push(b'\n');
            json.into()
        }
        Err(error) => {
            // Leaves the stream without its last event, which clients take for a failure.
            tracing::error!("an event has no JSON form: {error}");
            Bytes::new()
        }
    }
}

async fn collect(body: Body, limit: usize) -> Result<Bytes, Failure> {
    let read = tokio::time::timeout(JSON_TIME, collect_all(body, limit)).await;
    read.unwrap_or_else(|_| {
        Err(Failure::new(ErrorCode::Timeout, "the body did not arrive in time"))
    })
}

async fn collect_all(mut body: Body, limit: usize) -> Result<Bytes, Failure> {
    let mut collected = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|_| Failure::new(ErrorCode::InvalidRequest, "the body ended early"))?;
        let Ok(data) = frame.into_data() else { continue };
        if collected.len() + data.len() > limit {
            let message = format!("the body is larger than {limit} bytes");
            return Err(Failure::new(ErrorCode::BodyTooLarge, message));
        }
        collected.extend_from_slice(&data);
    }
    Ok(collected.freeze())
}

/// Reads JSON.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| {
        let told = error.to_string();
        if error.is_data() && told.starts_with("unknown field") {
            Failure::new(ErrorCode::UnknownField, told)
        } else if error.is_data() {
            Failure::new(ErrorCode::InvalidJson, format!("the body does not fit: {told}"))
        } else {
            Failure::new(ErrorCode::InvalidJson, format!("the body is not JSON: {told}"))
        }
    })
}

#[cfg(test)]
mod tests {
    use api::CreateSandbox;
    use axum::http::HeaderValue;

    use super::*;

    async fn refused(body: impl Into<Body>) -> (ErrorCode, String) {
        let failure = json::<CreateSandbox>(body.into(), 100).await.unwrap_err();
        let code = failure.code.clone();
        (code, failure.report(&crate::app::RequestId::new()).error)
    }

    #[tokio::test]
    async fn a_refusal_says_what_is_wrong_and_where() {
        let (code, told) = refused("{\"name\": \"a\",\n oops}").await;
        assert_eq!(code, ErrorCode::InvalidJson);
        assert!(told.contains("line 2 column 2"), "{told}");
        let (code, told) = refused(r#"{"memroy_mb": 1}"#).await;
        assert_eq!(code, ErrorCode::UnknownField);
        assert!(told.contains("memroy_mb"), "{told}");
        let (code, told) = refused(r#"{"cpus": "two"}"#).await;
        assert_eq!(code, ErrorCode::InvalidJson);
        assert!(told.contains("line 1 column"), "{told}");
        assert_eq!(refused("").await.0, ErrorCode::InvalidJson);
        assert_eq!(refused(" ".repeat(101)).await.0, ErrorCode::BodyTooLarge);
        assert!(json::<CreateSandbox>("{}".into(), 2).await.is_ok());
        assert!(json_or_default::<CreateSandbox>(" \n".into(), 2).await.is_ok());
    }

    #[test]
    fn events_are_wanted_wherever_they_stand_in_the_header() {
        for (value, wanted) in [
            ("application/x-ndjson", true),
            ("application/json, Application/X-NDJSON;q=0.9", true),
            ("application/json", false),
            ("*/*", false),
            ("application/x-ndjsonish", false),
        ] {
            let mut request = HeaderMap::new();
            request.insert(header::ACCEPT, HeaderValue::from_static(value));
            assert_eq!(wants_events(&request), wanted, "{value}");
        }
    }
}

//! What a storage answers.

use hyper::StatusCode;

use super::S3Error;
use crate::http::Whole;

/// Objects and ids of uploads that are not completed.
pub(super) fn uploads(body: &str) -> Result<Vec<(String, String)>, S3Error> {
    let read = |upload| Some((element(upload, "Key")?, element(upload, "UploadId")?));
    let found = elements(body, "Upload").map(|upload| {
        let (key, id) = read(upload).ok_or(S3Error::Answer("a question for uploads"))?;
        Ok((unescape(key), unescape(id)))
    });
    found.collect()
}

/// Numbers of parts, with their sizes and tags, and after which one there are more.
pub(super) type Parts = (Vec<(u16, (u64, String))>, Option<u16>);

/// The parts of an upload. Some storages call the whole by another name than S3 does, so only what
/// is in it counts.
pub(super) fn parts(body: &str) -> Result<Parts, S3Error> {
    let read = |part| {
        let number = element(part, "PartNumber")?.parse().ok()?;
        let size = element(part, "Size")?.parse().ok()?;
        Some((number, (size, unescape(element(part, "ETag")?))))
    };
    let answer = || S3Error::Answer("a question for parts");
    let parts = elements(body, "Part").map(|part| read(part).ok_or_else(answer));
    let more = match element(body, "IsTruncated").ok_or_else(answer)? {
        "true" => element(body, "NextPartNumberMarker").and_then(|next| next.parse().ok()),
        _ => None,
    };
    Ok((parts.collect::<Result<_, _>>()?, more))
}

/// The answer, if it is none that refuses. Completing an upload may be refused with status 200.
pub(super) fn accepted(action: &'static str, answer: Whole) -> Result<Whole, S3Error> {
    if answer.status.is_success() && !(answer.status == StatusCode::OK && is_error(&answer.body)) {
        return Ok(answer);
    }
    Err(refused(action, answer.status, &answer.body))
}

pub(super) fn refused(action: &'static str, status: StatusCode, body: &str) -> S3Error {
    let text = |name: &str| {
        let text = element(body, name).unwrap_or_default();
        text.chars().filter(|c| !c.is_control()).take(300).collect::<String>()
    };
    let (code, message) = (text("Code"), text("Message"));
    let code = if code.is_empty() {
        status.canonical_reason().unwrap_or("no reason given").to_owned()
    } else {
        code
    };
    S3Error::Refused { action, status: status.as_u16(), code, message }
}

fn is_error(body: &str) -> bool {
    let body = body.trim_start();
    let body = match body.strip_prefix("<?xml") {
        Some(rest) => rest.split_once("?>").map_or("", |(_, rest)| rest).trim_start(),
        None => body,
    };
    body.starts_with("<Error>") || body.starts_with("<Error ")
}

/// The text of the first element of that name that has no attributes. Nothing that is asked for is
/// within another of its name.
fn element<'a>(body: &'a str, name: &str) -> Option<&'a str> {
    elements(body, name).next()
}

fn elements<'a>(body: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = body;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once(&open)?;
        let (text, after) = after.split_once(&close)?;
        rest = after;
        Some(text)
    })
}

/// What stands for characters that XML has other uses for.
fn unescape(text: &str) -> String {
    let mut text = text.to_owned();
    for (escaped, plain) in [
        ("&quot;", "\""),
        ("&#34;", "\""),
        ("&apos;", "'"),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&amp;", "&"),
    ] {
        text = text.replace(escaped, plain);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_in_any_dialect() {
        let part = |n| {
            format!(
                "<Part><PartNumber>{n}</PartNumber><ETag>&quot;a{n}&quot;</ETag><Size>5</Size></Part>"
            )
        };
        let body = format!(
            "<ListPartsResult xmlns=\"s3\"><NextPartNumberMarker>2</NextPartNumberMarker>\
             <IsTruncated>true</IsTruncated>{}{}</ListPartsResult>",
            part(1),
            part(2)
        );
        let both = vec![(1, (5, "\"a1\"".to_owned())), (2, (5, "\"a2\"".to_owned()))];
        assert_eq!(parts(&body).unwrap(), (both.clone(), Some(2)));
        let last = body.replace("true", "false").replace("ListPartsResult", "Other");
        assert_eq!(parts(&last).unwrap(), (both, None));
        assert!(parts("<html>").is_err() && parts(&body.replace("<Size>5", "<Size>x")).is_err());
    }

    #[test]
    fn an_error_is_found_whatever_its_status_says() {
        let body = "<?xml version=\"1.0\"?>\n<Error><Code>InternalError</Code></Error>";
        assert!(is_error(body));
        assert!(!is_error("<CompleteMultipartUploadResult/>") && !is_error(""));
        let error = refused("do it", StatusCode::OK, body);
        assert_eq!(error.to_string(), "the storage refused to do it: 200, InternalError");
        let error = refused("do it", StatusCode::BAD_GATEWAY, "<html>");
        assert_eq!(error.to_string(), "the storage refused to do it: 502, Bad Gateway");
    }
}

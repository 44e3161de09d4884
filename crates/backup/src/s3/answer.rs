//! What a storage answers.

use hyper::StatusCode;
use instant_xml::FromXml;

use super::S3Error;
use crate::http::Whole;

#[derive(Debug, FromXml)]
#[xml(rename = "ListMultipartUploadsResult", ns("http://s3.amazonaws.com/doc/2006-03-01/"))]
struct Uploads {
    uploads: Vec<Upload>,
}

#[derive(Debug, FromXml)]
#[xml(rename = "Upload", ns("http://s3.amazonaws.com/doc/2006-03-01/"))]
struct Upload {
    #[xml(rename = "Key")]
    key: String,
    #[xml(rename = "UploadId")]
    id: String,
}

/// Objects and ids of uploads that are not completed.
pub(super) fn uploads(body: &str) -> Result<Vec<(String, String)>, S3Error> {
    let read: Uploads = instant_xml::from_str(body)
        .map_err(|_| S3Error::Answer("the question for unfinished uploads"))?;
    Ok(read.uploads.into_iter().map(|upload| (upload.key, upload.id)).collect())
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

/// The text of the first element of that name. Errors come in many dialects, and people only read
/// them.
fn element<'a>(body: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

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

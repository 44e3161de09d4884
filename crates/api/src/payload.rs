//! Bytes in JSON: text where they are text, base64 where they are not.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

/// A piece of output. Exactly one of the fields is set by this library; a reader takes `data_b64`
/// first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// The bytes, if they are UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// The bytes in base64 (RFC 4648 with padding), if they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_b64: Option<String>,
}

impl Payload {
    /// Packs bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        match String::from_utf8(bytes.into()) {
            Ok(text) => Self { data: Some(text), data_b64: None },
            Err(error) => Self { data: None, data_b64: Some(encode(error.as_bytes())) },
        }
    }

    /// The exact bytes.
    ///
    /// # Errors
    /// If `data_b64` is not base64.
    pub fn into_bytes(self) -> Result<Vec<u8>, base64::DecodeError> {
        match self.data_b64 {
            Some(text) => decode(&text),
            None => Ok(self.data.unwrap_or_default().into_bytes()),
        }
    }
}

/// Base64 with padding.
pub(crate) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The reverse of [`encode`].
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    STANDARD.decode(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_readable_and_other_bytes_stay_exact() {
        let text = Payload::new("grüße\n".as_bytes());
        assert_eq!(serde_json::to_string(&text).unwrap(), r#"{"data":"grüße\n"}"#);
        // Half of a character, as a stream cut at any byte brings it.
        let half = Payload::new(&b"gr\xc3"[..]);
        assert_eq!(serde_json::to_string(&half).unwrap(), r#"{"data_b64":"Z3LD"}"#);
        assert_eq!(half.into_bytes().unwrap(), b"gr\xc3");
    }
}

//! Heads of HTTP/1 requests, read as strictly as the strictest server would: a head that two
//! readers could take for different requests is none.

use httparse::{EMPTY_HEADER, Header, Request, Status};

/// Most header fields.
const FIELDS_MAX: usize = 128;

/// A request's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// How many bytes it has.
    pub(crate) size: usize,
    /// The host that it is for, without the port.
    pub(crate) host: Option<String>,
    pub(crate) body: Body,
    /// Whether it asks for a WebSocket.
    pub(crate) websocket: bool,
}

/// What follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    /// So many bytes.
    Sized(u64),
    Chunked,
}

/// It is not a request that can be checked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Broken;

/// The head at the start of these bytes; none if more are needed.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Head>, Broken> {
    let mut fields = [EMPTY_HEADER; FIELDS_MAX];
    let mut request = Request::new(&mut fields);
    let Status::Complete(size) = request.parse(bytes).map_err(|_| Broken)? else { return Ok(None) };
    // A line that ends with a bare line feed is a line to some and not to others.
    let head = &bytes[..size];
    let bare =
        head.iter().enumerate().any(|(at, b)| *b == b'\n' && (at == 0 || head[at - 1] != b'\r'));
    let leading = head.first().is_none_or(|byte| matches!(byte, b'\r' | b'\n'));
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return Err(Broken);
    };
    // A tunnel through a server would lead to where nobody checks.
    if bare || leading || method.eq_ignore_ascii_case("CONNECT") {
        return Err(Broken);
    }
    let host = host(request.headers, target)?;
    let body = body(request.headers, version)?;
    let websocket = field(request.headers, "upgrade")?
        .is_some_and(|value| value.eq_ignore_ascii_case("websocket"));
    Ok(Some(Head { size, host, body, websocket }))
}

/// The value of a field that may be there only once.
fn field<'a>(fields: &[Header<'a>], name: &str) -> Result<Option<&'a str>, Broken> {
    let mut values = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            std::str::from_utf8(value.value).map(|text| Some(text.trim())).map_err(|_| Broken)
        }
        (Some(_), Some(_)) => Err(Broken),
    }
}

/// The host by field and, if it is there, by target; they have to agree.
fn host(fields: &[Header<'_>], target: &str) -> Result<Option<String>, Broken> {
    let by_field = field(fields, "host")?.map(host_of).transpose()?;
    if target.starts_with('/') || target == "*" {
        return Ok(by_field);
    }
    let (scheme, rest) = target.split_once("://").ok_or(Broken)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(Broken);
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let by_target = host_of(authority)?;
    match by_field {
        Some(by_field) if by_field != by_target => Err(Broken),
        _ => Ok(Some(by_target)),
    }
}

/// The host in `host[:port]`, in lower case.
fn host_of(authority: &str) -> Result<String, Broken> {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) => return Err(Broken),
        None => authority,
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if host.is_empty() || !host.bytes().all(plain) {
        return Err(Broken);
    }
    Ok(host.to_ascii_lowercase())
}

fn body(fields: &[Header<'_>], version: u8) -> Result<Body, Broken> {
    let length = field(fields, "content-length")?;
    let encoding = field(fields, "transfer-encoding")?;
    match (length, encoding) {
        (None, None) => Ok(Body::Sized(0)),
        (Some(length), None) => {
            // `parse` would take a sign.
            let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
            let length = digits.then(|| length.parse().ok()).flatten().ok_or(Broken)?;
            Ok(Body::Sized(length))
        }
        (None, Some(encoding)) if encoding.eq_ignore_ascii_case("chunked") && version == 1 => {
            Ok(Body::Chunked)
        }
        (_, Some(_)) => Err(Broken),
    }
}

/// Follows a chunked body as it goes by.
#[derive(Debug, Default)]
pub(crate) struct Chunks(Chunk);

#[derive(Debug, Default)]
enum Chunk {
    /// In the line with the size: its digits so far, and whether an extension has begun.
    #[default]
    Start,
    Size {
        size: u64,
        extension: bool,
        length: usize,
    },
    /// After the carriage return of that line.
    SizeEnd(u64),
    Data(u64),
    DataEnd,
    DataEndLine,
    /// In the trailer; how long the line is, and the whole.
    Trailer {
        line: usize,
        length: usize,
    },
    TrailerEnd {
        line: usize,
        length: usize,
    },
    Done,
}

/// The longest line with a size, and the longest trailer.
const CHUNK_LINE_MAX: usize = 256;
const TRAILER_MAX: usize = 16 * 1024;

impl Chunks {
    /// How many of these bytes belong to the body, and whether it ends there.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> Result<(usize, bool), Broken> {
        let mut at = 0;
        while at < bytes.len() && !matches!(self.0, Chunk::Done) {
            if let Chunk::Data(left) = self.0 {
                let part = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                at += part;
                let left = left - part as u64;
                self.0 = if left == 0 { Chunk::DataEnd } else { Chunk::Data(left) };
                continue;
            }
            self.0 = self.0.next(bytes[at])?;
            at += 1;
        }
        Ok((at, matches!(self.0, Chunk::Done)))
    }
}

impl Chunk {
    fn next(&self, byte: u8) -> Result<Self, Broken> {
        let digit = char::from(byte).to_digit(16).map(u64::from);
        Ok(match (self, byte) {
            (Self::Start, _) => {
                Self::Size { size: digit.ok_or(Broken)?, extension: false, length: 1 }
            }
            (Self::Size { size, .. }, b'\r') => Self::SizeEnd(*size),
            (Self::Size { length, .. }, _) if *length >= CHUNK_LINE_MAX => return Err(Broken),
            (Self::Size { .. }, b'\n' | 0) => return Err(Broken),
            (Self::Size { size, extension: true, length }, _)
            | (Self::Size { size, extension: false, length }, b';') => {
                Self::Size { size: *size, extension: true, length: length + 1 }
            }
            (Self::Size { size, extension: false, length }, _) => {
                let digit = digit.ok_or(Broken)?;
                let size = size.checked_mul(16).and_then(|size| size.checked_add(digit));
                Self::Size { size: size.ok_or(Broken)?, extension: false, length: length + 1 }
            }
            (Self::SizeEnd(0), b'\n') => Self::Trailer { line: 0, length: 0 },
            (Self::SizeEnd(size), b'\n') => Self::Data(*size),
            (Self::DataEnd, b'\r') => Self::DataEndLine,
            (Self::DataEndLine, b'\n') => Self::Start,
            (Self::Trailer { line, length }, b'\r') => {
                Self::TrailerEnd { line: *line, length: *length }
            }
            (Self::Trailer { length, .. }, _) if *length >= TRAILER_MAX => return Err(Broken),
            (Self::Trailer { .. }, b'\n' | 0) => return Err(Broken),
            (Self::Trailer { line, length }, _) => {
                Self::Trailer { line: line + 1, length: length + 1 }
            }
            (Self::TrailerEnd { line: 0, .. }, b'\n') => Self::Done,
            (Self::TrailerEnd { length, .. }, b'\n') => {
                Self::Trailer { line: 0, length: length + 2 }
            }
            _ => return Err(Broken),
        })
    }
}

#[cfg(test)]
mod tests;

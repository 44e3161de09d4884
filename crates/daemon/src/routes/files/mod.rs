//! Files in a sandbox.

mod range;
mod read;
#[cfg(test)]
mod tests;
mod tree;
mod watch;
mod write;

use api::{ErrorCode, headers};
use axum::{
    http::{HeaderName, HeaderValue, header},
    response::Response,
};
use orchestrator::message as guest;
use serde::Deserialize;

pub(crate) use self::{
    read::{pack, read, stat},
    tree::{make_directory, move_file, remove},
    watch::watch,
    write::{unpack, write},
};
use crate::{failure::Failure, show};

/// What the query of a files request can hold.
#[derive(Debug, Default, Deserialize)]
struct FilesQuery {
    path: Option<String>,
    #[serde(default)]
    ls: bool,
    after: Option<String>,
    offset: Option<u64>,
    limit: Option<u64>,
    max_bytes: Option<u64>,
    mode: Option<String>,
    owner: Option<String>,
    #[serde(default)]
    append: bool,
    #[serde(default)]
    recursive: bool,
}

fn describe(response: &mut Response, stat: &guest::FileStat) {
    let is_dir = if stat.kind == guest::FileKind::Directory { "true" } else { "false" };
    let set = response.headers_mut();
    set.insert(HeaderName::from_static(headers::FILE_SIZE), stat.size.into());
    set.insert(HeaderName::from_static(headers::FILE_IS_DIR), HeaderValue::from_static(is_dir));
    if let Ok(mode) = HeaderValue::from_str(&show::mode(stat.mode)) {
        set.insert(HeaderName::from_static(headers::FILE_MODE), mode);
    }
    if stat.kind == guest::FileKind::File {
        set.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::InvalidRequest, message)
}

fn queried_path(path: Option<String>) -> Result<String, Failure> {
    guest_path(path.ok_or_else(|| invalid("the query has no path"))?)
}

fn guest_path(path: String) -> Result<String, Failure> {
    if !path.starts_with('/') {
        let message = format!("{path:?} is not an absolute path");
        return Err(Failure::new(ErrorCode::PathNotAbsolute, message));
    }
    if path.contains('\0') {
        return Err(invalid(format!("{path:?} contains a NUL character")));
    }
    Ok(path)
}

fn parse_mode(text: &str) -> Result<u32, Failure> {
    let digits = !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= 0o7777);
    mode.ok_or_else(|| invalid(format!("mode {text:?} is not octal permission bits, such as 0644")))
}

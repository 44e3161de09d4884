//! Sending a file, or some lines of it.

use std::fs::File;
use std::io::Read;

use proto::frame::{DATA_CHUNK, FrameKind};
use proto::message::{ErrorCode, FileRead, Response, WireError};
use proto::mux::Stream;
use rustix::fs::{Mode, OFlags, open};

use super::{Failure, explain, facts, locate};
use crate::agent::{Agent, refuse};

/// Lets through the bytes that are wanted of a file that passes by.
#[derive(Debug)]
struct Window {
    /// Line ends before the first wanted line.
    skip: u64,
    lines_left: Option<u64>,
    bytes_left: Option<u64>,
    /// Whether wanted lines or bytes ran out while there was more.
    truncated: bool,
}

impl Window {
    fn new(request: &FileRead) -> Result<Self, WireError> {
        let skip = request
            .offset
            .unwrap_or(1)
            .checked_sub(1)
            .ok_or_else(|| refuse(ErrorCode::Invalid, "lines are counted from 1"))?;
        let (lines_left, bytes_left) = (request.limit, request.max_bytes);
        Ok(Self { skip, lines_left, bytes_left, truncated: false })
    }

    /// The wanted part of the next bytes of the file.
    fn pass<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [u8] {
        while self.skip > 0 {
            let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return &[] };
            bytes = &bytes[end + 1..];
            self.skip -= 1;
        }
        let mut length = bytes.len();
        if let Some(lines) = &mut self.lines_left {
            let mut at = 0;
            while *lines > 0
                && let Some(end) = bytes[at..].iter().position(|byte| *byte == b'\n')
            {
                at += end + 1;
                *lines -= 1;
            }
            if *lines == 0 {
                length = at;
            }
        }
        if let Some(left) = &mut self.bytes_left {
            length = length.min(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= length as u64;
        }
        self.truncated |= length < bytes.len();
        &bytes[..length]
    }
}

/// Serves one [`FileRead`].
pub(super) async fn read(
    agent: &Agent,
    request: &FileRead,
    stream: &mut Stream,
) -> Result<Response, Failure> {
    let mut window = Window::new(request)?;
    let path = request.path.as_str();
    let place = locate(&agent.root, path)?;
    // A pipe that nobody writes to must not hold up the agent.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file =
        open(&place, flags, Mode::empty()).map_err(|errno| explain("open", path, &errno.into()))?;
    let mut file = File::from(file);
    let meta = file.metadata().map_err(|error| explain("stat", path, &error))?;
    if meta.is_dir() {
        return Err(refuse(ErrorCode::IsDirectory, format!("{path} is a directory")).into());
    }
    if !meta.is_file() {
        return Err(refuse(ErrorCode::Invalid, format!("{path} is not a regular file")).into());
    }
    stream.send_json(&Response::FileHeader(facts(&meta))).await?;
    let mut chunk = vec![0; DATA_CHUNK];
    while !window.truncated {
        let count = file.read(&mut chunk).map_err(|error| explain("read", path, &error))?;
        if count == 0 {
            break;
        }
        let wanted = window.pass(&chunk[..count]);
        if !wanted.is_empty() {
            stream.send_data(FrameKind::Data, wanted).await?;
        }
        // A file that is skipped over would otherwise keep everybody waiting.
        tokio::task::yield_now().await;
    }
    Ok(Response::FileEnd { truncated: window.truncated })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn through(request: &FileRead, content: &[u8], piece: usize) -> (Vec<u8>, bool) {
        let mut window = Window::new(request).unwrap();
        let mut got = Vec::new();
        for piece in content.chunks(piece) {
            if window.truncated {
                break;
            }
            got.extend_from_slice(window.pass(piece));
        }
        (got, window.truncated)
    }

    proptest! {
        #[test]
        fn a_window_is_what_cutting_lines_gives(
            content in "[ab\n]{0,60}",
            offset in proptest::option::of(1_u64..8),
            limit in proptest::option::of(0_u64..8),
            max_bytes in proptest::option::of(0_u64..40),
            piece in 1_usize..20,
        ) {
            let request = FileRead { offset, limit, max_bytes, ..FileRead::default() };
            let lines: Vec<&str> = content.split_inclusive('\n').collect();
            let first = usize::try_from(offset.unwrap_or(1) - 1).unwrap().min(lines.len());
            let rest = &lines[first..];
            let count = limit.map_or(rest.len(), |limit| usize::try_from(limit).unwrap());
            let mut expected = rest[..count.min(rest.len())].concat();
            if let Some(max) = max_bytes {
                expected.truncate(usize::try_from(max).unwrap());
            }
            let truncated = expected.len() < rest.concat().len();
            let got = through(&request, content.as_bytes(), piece);
            prop_assert_eq!(got, (expected.into_bytes(), truncated));
        }
    }
}

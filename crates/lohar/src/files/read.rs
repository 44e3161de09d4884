//! Sending a file, or some bytes or lines of it.

use std::io::IoSliceMut;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use proto::frame::FrameKind;
use proto::message::{ErrorCode, FileKind, FileRead, Response, WireError};
use proto::mux::Stream;
use rustix::fs::{Mode, OFlags, fstat, open};
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2, retry_on_intr};
use tokio::task::spawn_blocking;

use super::stat::facts;
use super::{Failure, explain, locate};
use crate::agent::{Agent, refuse};

/// Most bytes that are read at once.
const BLOCK: usize = 256 * 1024;

/// Bytes that are read at once of a file whose size is not known.
const UNKNOWN: usize = 16 * 1024;

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
        if request.skip_bytes.is_some() && (request.offset.is_some() || request.limit.is_some()) {
            let message = "skip_bytes counts bytes, offset and limit count lines: ask for either";
            return Err(refuse(ErrorCode::Invalid, message));
        }
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
    let meta = fstat(&file).map_err(|errno| explain("stat", path, &errno.into()))?;
    let facts = facts(&meta);
    match facts.kind {
        FileKind::File => {}
        FileKind::Directory => {
            return Err(refuse(ErrorCode::IsDirectory, format!("{path} is a directory")).into());
        }
        _ => {
            let message = format!("{path} is not a regular file");
            return Err(refuse(ErrorCode::Invalid, message).into());
        }
    }
    let mut source = Source::new(file, request.skip_bytes.unwrap_or(0), facts.size);
    stream.send_json(&Response::FileHeader(facts)).await?;
    let mut buffer = vec![0; source.buffer(window.bytes_left)];
    while !window.truncated && !source.ended {
        let count;
        (count, buffer) =
            source.next(buffer).await.map_err(|errno| explain("read", path, &errno.into()))?;
        let wanted = window.pass(&buffer[..count]);
        if !wanted.is_empty() {
            stream.send_data(FrameKind::Data, wanted).await?;
        }
        if !source.ended {
            // A file that is skipped over would otherwise keep everybody waiting.
            tokio::task::yield_now().await;
        }
    }
    Ok(Response::FileEnd { truncated: window.truncated })
}

/// A file that is read from some byte on.
struct Source {
    file: Arc<OwnedFd>,
    at: u64,
    /// Zero also if the kernel does not know, as with what it makes up while it is read.
    size: u64,
    ended: bool,
}

impl Source {
    fn new(file: OwnedFd, at: u64, size: u64) -> Self {
        // The kernel counts with a sign, and no file is that large.
        Self { file: Arc::new(file), at, size, ended: i64::try_from(at).is_err() }
    }

    /// Bytes to read at once: of a small file one more than there are, so that its end shows.
    fn buffer(&self, wanted: Option<u64>) -> usize {
        if self.size == 0 {
            return UNKNOWN;
        }
        let left = self.size.saturating_sub(self.at).min(wanted.unwrap_or(u64::MAX));
        usize::try_from(left).unwrap_or(BLOCK).saturating_add(1).min(BLOCK)
    }

    /// Reads on; answers how many bytes of the buffer are filled, none at the end.
    async fn next(&mut self, mut buffer: Vec<u8>) -> Result<(usize, Vec<u8>), Errno> {
        let at = self.at;
        let here = if self.size == 0 {
            // Nothing of that is on a disk.
            retry_on_intr(|| pread(&self.file, &mut buffer, at))
        } else {
            let flags = ReadWriteFlags::NOWAIT;
            preadv2(&self.file, &mut [IoSliceMut::new(&mut buffer)], at, flags)
        };
        let count = match here {
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INTR) if self.size > 0 => {
                let file = Arc::clone(&self.file);
                let there = spawn_blocking(move || {
                    let count = retry_on_intr(|| pread(&file, &mut buffer, at));
                    (count, buffer)
                });
                let count;
                (count, buffer) = there.await.map_err(|_| Errno::IO)?;
                count?
            }
            count => count?,
        };
        self.at += count as u64;
        let short = self.size > 0 && count < buffer.len() && self.at >= self.size;
        self.ended = count == 0 || short;
        Ok((count, buffer))
    }
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

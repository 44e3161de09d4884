//! Listing a directory of any size.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use proto::message::{FileEntry, FileList, Response, WireError};
use proto::mux::Stream;
use rustix::io::Errno;

use super::at::{each_entry, open_directory};
use super::{Failure, blocking, explain, locate, stat};
use crate::agent::Agent;

/// Entries in one frame.
const ENTRIES_PER_FRAME: usize = 400;

/// Bytes of names and targets after which a frame takes no more entries: even if all must be
/// escaped, to six bytes each, they are well below what a frame can hold.
const FRAME_BYTES: usize = 128 * 1024;

/// An entry that is to be described: its name as the host sees it, and as it is if that differs.
type Name = (String, Option<CString>);

/// Serves one directory; the last frame is left to be sent.
pub(super) async fn list(
    agent: &Agent,
    request: FileList,
    stream: &mut Stream,
) -> Result<Response, Failure> {
    let place = locate(&agent.root, &request.path)?;
    let first = move || {
        let failed = |errno: Errno| explain("list", &request.path, &errno.into());
        let directory = Arc::new(open_directory(&place).map_err(failed)?);
        let (names, more) = page(&directory, &request).map_err(failed)?;
        let mut names = names.into_iter();
        let entries = describe(&directory, &mut names);
        Ok((directory, names, more, entries))
    };
    let (directory, mut names, more, mut entries) = blocking(first).await?;
    while names.len() > 0 {
        stream.send_json(&Response::List { entries, last: false, more: false }).await?;
        let directory = Arc::clone(&directory);
        (names, entries) = blocking(move || -> Result<_, WireError> {
            let entries = describe(&directory, &mut names);
            Ok((names, entries))
        })
        .await?;
    }
    Ok(Response::List { entries, last: true, more })
}

/// The names that are wanted, in order, and whether others come after them.
fn page(directory: &OwnedFd, request: &FileList) -> Result<(Vec<Name>, bool), Errno> {
    let mut names: Vec<Name> = Vec::new();
    each_entry(directory, |raw, _| {
        let (name, raw) = match raw.to_str() {
            Ok(name) => (name.to_owned(), None),
            Err(_) => (raw.to_string_lossy().into_owned(), Some(raw.to_owned())),
        };
        if request.after.as_ref().is_none_or(|after| name > *after) {
            names.push((name, raw));
        }
        Ok(())
    })?;
    let limit =
        request.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    if limit >= names.len() {
        names.sort_unstable();
        return Ok((names, false));
    }
    // The whole need not be sorted for a part of it.
    names.select_nth_unstable(limit);
    let next = names[limit].0.clone();
    names.truncate(limit);
    names.sort_unstable();
    // Names that look alike must come together: the next page begins after them all.
    let alike = names.iter().rev().take_while(|name| name.0 == next).count();
    if alike > 0 && alike < names.len() {
        names.truncate(names.len() - alike);
    }
    Ok((names, true))
}

/// Describes the next entries, as many as go into a frame.
fn describe(directory: &OwnedFd, names: &mut std::vec::IntoIter<Name>) -> Vec<FileEntry> {
    let mut entries = Vec::with_capacity(names.len().min(ENTRIES_PER_FRAME));
    let mut bytes = 0;
    while entries.len() < ENTRIES_PER_FRAME
        && bytes < FRAME_BYTES
        && let Some((name, raw)) = names.next()
    {
        let Some(raw) = raw.or_else(|| CString::new(name.as_bytes()).ok()) else { continue };
        // What has gone meanwhile is not there.
        if let Ok(stat) = stat::entry(directory, &raw) {
            bytes += name.len() + stat.target.as_ref().map_or(0, String::len);
            entries.push(FileEntry { name, stat });
        }
    }
    entries
}

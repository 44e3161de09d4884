//! Listing a directory of any size.

use proto::message::{FileEntry, Response};
use proto::mux::Stream;

use super::{Failure, explain, facts, locate};
use crate::agent::Agent;

/// Entries in one frame: even if every name is as long as can be, and all of it must be escaped,
/// they are well below what a frame can hold.
const ENTRIES_PER_FRAME: usize = 400;

/// Serves one directory; the last frame is left to be sent.
pub(super) async fn list(
    agent: &Agent,
    path: &str,
    stream: &mut Stream,
) -> Result<Response, Failure> {
    let place = locate(&agent.root, path)?;
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(&place).map_err(|error| explain("list", path, &error))? {
        let entry = entry.map_err(|error| explain("list", path, &error))?;
        // What has gone meanwhile is not there.
        if let Ok(meta) = entry.metadata() {
            let name = entry.file_name().to_string_lossy().into_owned();
            entries.push(FileEntry { name, stat: facts(&meta) });
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    while entries.len() > ENTRIES_PER_FRAME {
        let later = entries.split_off(ENTRIES_PER_FRAME);
        stream.send_json(&Response::List { entries, last: false, more: false }).await?;
        entries = later;
    }
    Ok(Response::List { entries, last: true, more: false })
}

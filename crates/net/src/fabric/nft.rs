//! Running `nft` inside a namespace.

use std::{
    future::Future,
    io::{self, Seek as _, Write as _},
    os::fd::OwnedFd,
    time::Duration,
};

use base::process::Command;
use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::Value;
use tokio::time::timeout;

use super::{NetError, namespace::Namespace};

/// How long nft may take. It takes some milliseconds, on a host in need perhaps seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs one transaction: all of it or nothing.
pub(super) async fn apply(namespace: &Namespace, script: String) -> Result<(), NetError> {
    let run = move || -> Result<(), NetError> {
        let input = in_memory(&script).map_err(NetError::Namespace)?;
        Command::new("nft").args(["-f", "-"]).stdin(input).output()?;
        Ok(())
    };
    limited(namespace.inside(run)).await?
}

/// Waits for nft, but not for ever: others wait meanwhile. One that hangs is left to itself.
async fn limited<T>(run: impl Future<Output = io::Result<T>>) -> Result<T, NetError> {
    let ended = timeout(PATIENCE, run).await.map_err(|_| NetError::Slow)?;
    ended.map_err(NetError::namespace)
}

/// What `nft -j` with these arguments prints: the list of objects.
pub(super) async fn list(
    namespace: &Namespace,
    args: &'static [&'static str],
) -> Result<Vec<Value>, NetError> {
    let run = move || Ok(Command::new("nft").args(["-j", "list"]).args(args).output()?);
    let printed: Vec<u8> = limited(namespace.inside(run)).await?.map_err(|e: NetError| e)?;
    let mut whole: Value = serde_json::from_slice(&printed).map_err(NetError::Listing)?;
    match whole.get_mut("nftables").map(Value::take) {
        Some(Value::Array(objects)) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

/// A file that is nowhere, so that however long the script is nobody has to feed a pipe.
fn in_memory(script: &str) -> io::Result<OwnedFd> {
    let mut file = std::fs::File::from(memfd_create("rules", MemfdFlags::CLOEXEC)?);
    file.write_all(script.as_bytes())?;
    file.rewind()?;
    Ok(file.into())
}

//! Registries that lie, stall and lead astray.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what cannot be made ready fails the test, and what was said is shown then"
)]

mod auth;
mod content;
mod image;
mod server;
mod ways;

use std::time::Duration;

use registry::{
    Client, Credentials, Downloaded, Error, Kind, Options, Patience, Platform, Reach, Remote,
    Request,
};
use server::Server;

fn patience() -> Patience {
    Patience {
        connect: Duration::from_secs(5),
        answer: Duration::from_millis(500),
        document: Duration::from_millis(700),
        stall: Duration::from_millis(500),
        retry: Duration::from_millis(1),
    }
}

fn options() -> Options {
    let reach = Reach { loopback: true, ..Reach::default() };
    Options { reach, patience: patience(), ..Options::default() }
}

fn request(reference: &str, credentials: Option<Credentials>) -> Request {
    let reference = reference.parse().unwrap();
    Request { reference, credentials, platform: Platform::default() }
}

/// What `x` means at a server.
async fn resolve(server: &Server) -> Result<Remote, Error> {
    resolve_as(server, None).await
}

async fn resolve_as(server: &Server, credentials: Option<Credentials>) -> Result<Remote, Error> {
    let request = request(&format!("{}/x", server.address), credentials);
    Client::new(options()).unwrap().resolve(&request).await
}

/// All layers of `x` at a server, and what is left in the directory.
async fn pull(server: &Server) -> (Result<Vec<Downloaded>, Error>, usize) {
    let remote = resolve(server).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut downloads = remote.download(directory.path(), |_| false, |_| ());
    let mut all = Vec::new();
    let mut failed = None;
    while let Some(next) = downloads.next().await {
        match next {
            Ok(layer) => all.push(layer),
            Err(error) => failed = Some(error),
        }
    }
    let left = std::fs::read_dir(directory.path()).unwrap().count();
    (failed.map_or(Ok(all), Err), left)
}

fn kind<T>(result: Result<T, Error>) -> Option<Kind> {
    result.err().map(|error| {
        println!("{error} ({:?})", error.hint());
        error.kind()
    })
}

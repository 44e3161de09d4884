//! A server that speaks S3, for tests: moto, which is not ours. And keys.

use std::{path::PathBuf, time::Duration};

use age::{secrecy::ExposeSecret as _, x25519::Identity};
use base::process::{Command, Process};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    net::unix::pipe,
    time::timeout,
};

use crate::s3::S3Config;

/// A pair of keys, as people have them: what a backup is encrypted for, and the file that opens it.
pub fn keys() -> (String, String) {
    let identity = Identity::generate();
    let secret = identity.to_string();
    (identity.to_public().to_string(), format!("# a key\n{}\n", secret.expose_secret()))
}

/// How long it may take to begin.
const BEGIN_TIME: Duration = Duration::from_secs(60);

/// Such a server, with an empty bucket `backups`. Dropped, it ends.
#[derive(Debug)]
pub struct Moto {
    /// Where it is, `http://127.0.0.1:…`.
    pub endpoint: String,
    _process: Process,
}

impl Moto {
    /// Starts one.
    ///
    /// # Panics
    /// If it is not installed or does not start.
    pub async fn start() -> Self {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let command = Command::new(program()).args(["-H", "127.0.0.1", "-p", "0"]);
        let command = command.stderr(writer.try_clone().expect("a pipe")).stdout(writer);
        let process = command.spawn().expect("moto starts");
        let receiver = pipe::Receiver::from_owned_fd(reader.into()).expect("a pipe");
        let mut said = BufReader::new(receiver).lines();
        let endpoint = timeout(BEGIN_TIME, listening(&mut said)).await.expect("moto is quick");
        // What nobody reads would hold it up.
        tokio::spawn(async move { while matches!(said.next_line().await, Ok(Some(_))) {} });
        let moto = Self { endpoint, _process: process };
        moto.make_bucket().await;
        moto
    }

    /// What leads to its bucket.
    pub fn config(&self) -> S3Config {
        S3Config {
            endpoint: self.endpoint.clone(),
            region: "us-east-1".to_owned(),
            bucket: "backups".to_owned(),
            prefix: "of/bhatti".to_owned(),
            path_style: true,
            access_key: "AKIATEST".to_owned(),
            secret_key: "not-a-secret".to_owned(),
            ca: None,
        }
    }

    async fn make_bucket(&self) {
        let s3 = crate::s3::S3::new(&self.config()).expect("a configuration");
        s3.make_bucket().await.expect("moto makes a bucket");
    }
}

async fn listening(said: &mut Lines<BufReader<pipe::Receiver>>) -> String {
    while let Some(line) = said.next_line().await.expect("what moto says") {
        if let Some((_, address)) = line.split_once("Running on ") {
            return address.trim().trim_end_matches('/').to_owned();
        }
    }
    panic!("moto ended");
}

/// Beside what was built, where `scripts/bootstrap.sh tests` puts it.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a program has a path");
    let found = test.ancestors().map(|above| above.join("moto/bin/moto_server"));
    let found = found.into_iter().find(|path| path.exists());
    found.expect("moto is not installed: run scripts/bootstrap.sh tests")
}

//! One sandbox as a test deals with it.

use std::time::Duration;

use api::{
    CreateSandbox, ExecRequest, ExecResponse, Kill, Sandbox, StartFrom, StartSandbox, Status,
    client::{Client, ClientError, FilePart},
};

use crate::{DISK_MB, MEMORY_MB, Node};

/// A sandbox that has not come to the state it should be in for so long never will.
const HANGS: Duration = Duration::from_secs(60);
/// How often a sandbox is looked at while it changes by itself.
const LOOK: Duration = Duration::from_millis(10);

/// A small sandbox.
pub fn create_request(name: &str) -> CreateSandbox {
    CreateSandbox {
        name: Some(name.to_owned()),
        image: Some("busybox".to_owned()),
        cpus: Some(1),
        memory_mb: Some(MEMORY_MB),
        disk_size_mb: Some(DISK_MB),
        ..CreateSandbox::default()
    }
}

/// A shell script.
pub fn sh(script: &str) -> ExecRequest {
    ExecRequest { cmd: ["sh", "-c", script].map(str::to_owned).into(), ..ExecRequest::default() }
}

/// A shell script of the guest's root.
pub fn root(script: &str) -> ExecRequest {
    ExecRequest { user: Some("root".to_owned()), ..sh(script) }
}

/// Asks for a signal.
pub fn signal(name: &str) -> Kill {
    Kill { signal: Some(name.to_owned()) }
}

/// A sandbox and a connection for it.
#[derive(Debug)]
pub struct Guest {
    /// The connection; another is had from the node.
    pub client: Client,
    /// The sandbox's id.
    pub id: String,
}

impl Guest {
    /// Makes a small sandbox of the admin's.
    pub async fn create(node: &Node, name: &str) -> Self {
        Self::create_by(node.admin(), create_request(name)).await
    }

    /// Makes a sandbox of the client's user.
    ///
    /// # Panics
    /// If it cannot be made.
    pub async fn create_by(mut client: Client, request: CreateSandbox) -> Self {
        let created = client.create(&request, drop).await;
        let created = created.unwrap_or_else(|error| panic!("create {request:?}: {error}"));
        Self { client, id: created.sandbox.id }
    }

    /// The same sandbox over another connection.
    pub fn by(&self, client: Client) -> Self {
        Self { client, id: self.id.clone() }
    }

    /// Runs a command to its end.
    pub async fn exec(&mut self, request: &ExecRequest) -> Result<ExecResponse, ClientError> {
        self.client.exec(&self.id, request).await
    }

    /// Runs a script that has to succeed and gives what it printed, without the last line's end.
    ///
    /// # Panics
    /// If it fails.
    pub async fn sh(&mut self, script: &str) -> String {
        self.must(&sh(script)).await
    }

    /// As [`Self::sh`], as the guest's root.
    pub async fn root(&mut self, script: &str) -> String {
        self.must(&root(script)).await
    }

    async fn must(&mut self, request: &ExecRequest) -> String {
        let answer = self.exec(request).await;
        let answer = answer.unwrap_or_else(|error| panic!("{:?}: {}", request.cmd, told(&error)));
        assert_eq!(
            (answer.exit_code, answer.timed_out),
            (0, false),
            "{:?} printed {:?} and {:?}",
            request.cmd,
            answer.stdout,
            answer.stderr
        );
        answer.stdout.trim_end().to_owned()
    }

    /// Starts a job and gives its id.
    ///
    /// # Panics
    /// If it cannot be started.
    pub async fn detach(&mut self, request: &ExecRequest) -> String {
        let request = ExecRequest { detach: true, ..request.clone() };
        let started = self.client.detach(&self.id, &request).await;
        started.unwrap_or_else(|error| panic!("{:?}: {}", request.cmd, told(&error))).job_id
    }

    /// Reads a whole file.
    pub async fn read(&mut self, path: &str, part: FilePart) -> Result<Vec<u8>, ClientError> {
        let mut content = self.client.file_read(&self.id, path, part).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = content.chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// Replaces a file.
    pub async fn write(&mut self, path: &str, content: Vec<u8>) -> Result<u64, ClientError> {
        let content = std::io::Cursor::new(content);
        self.client.file_write(&self.id, path, None, content).await.map(|written| written.size)
    }

    /// The sandbox as it is shown.
    ///
    /// # Panics
    /// If it is not.
    pub async fn view(&mut self) -> Sandbox {
        self.client.sandbox(&self.id).await.expect("the sandbox is shown")
    }

    /// Puts it on disk.
    ///
    /// # Panics
    /// If that fails.
    pub async fn stop(&mut self) -> Sandbox {
        let stopped = self.client.stop(&self.id, drop).await;
        stopped.unwrap_or_else(|error| panic!("stop: {}", told(&error)))
    }

    /// Starts it, from what the daemon thinks best or from what is said.
    pub async fn start(&mut self, from: Option<StartFrom>) -> Result<Sandbox, ClientError> {
        self.client.start(&self.id, &StartSandbox { from }, drop).await
    }

    /// Waits until the daemon has noticed that the sandbox failed.
    ///
    /// # Panics
    /// If it never does.
    pub async fn failed(&mut self) -> Sandbox {
        until("the sandbox has failed", async || {
            let view = self.view().await;
            (view.status == Status::Failed).then_some(view)
        })
        .await
    }
}

pub(crate) fn told(error: &ClientError) -> String {
    let body = error.to_body();
    format!("{} {:?} ({})", body.code, body.error, body.hint.unwrap_or_default())
}

/// Looks again and again until `look` finds something. Only for what the interface has no way to
/// wait for: a change that nobody asked for, such as the death of a VM.
///
/// # Panics
/// If it never does.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let mut again = tokio::time::interval(LOOK);
    let looking = async {
        loop {
            again.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    };
    let found = tokio::time::timeout(HANGS, looking).await;
    found.unwrap_or_else(|_| panic!("waited in vain until {what}"))
}

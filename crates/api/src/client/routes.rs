//! One method a route.

use std::{fmt::Write as _, marker::PhantomData};

use http_body_util::BodyExt as _;
use hyper::{Method, Response, body::Incoming, header};
use tokio::io::AsyncRead;

use super::{
    Call, Client, ClientError, Content, Events, FileContent,
    body::{ReaderBody, json},
};
use crate::{
    CreateSandbox, CreateUser, Destroyed, ExecRequest, ExecResponse, FileInfo, FileStat,
    FileWritten, Health, Image, ProgressEvent, Sandbox, StartSandbox, StreamEvent, User,
    UserDeleted, UserKey, headers,
};

/// The outcome of a create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// The sandbox.
    pub sandbox: Sandbox,
    /// Whether it was there already.
    pub existing: bool,
}

/// Which part of a file to read; the whole of it by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FilePart {
    /// First line, counted from 1.
    pub offset: Option<u64>,
    /// Most lines.
    pub limit: Option<u64>,
    /// Most bytes.
    pub max_bytes: Option<u64>,
}

/// `id` is always an id or a name. Every method fails with [`ClientError::Api`] when the daemon
/// answers with an error.
impl Client {
    /// The daemon's state. Needs no key.
    pub async fn health(&mut self) -> Result<Health, ClientError> {
        json(self.send(Call::new(Method::GET, "/health")).await?).await
    }

    /// The caller's sandboxes that have all of these labels.
    pub async fn sandboxes(
        &mut self,
        labels: &[(String, String)],
    ) -> Result<Vec<Sandbox>, ClientError> {
        let mut path = Query::new("/sandboxes".to_owned());
        for (key, value) in labels {
            path.add("label", &format!("{key}={value}"));
        }
        json(self.send(Call::new(Method::GET, path.0)).await?).await
    }

    /// One sandbox.
    pub async fn sandbox(&mut self, id: &str) -> Result<Sandbox, ClientError> {
        json(self.send(Call::new(Method::GET, sandbox_path(id, ""))).await?).await
    }

    /// Makes a sandbox, telling `progress` what is being done.
    pub async fn create(
        &mut self,
        request: &CreateSandbox,
        progress: impl FnMut(String),
    ) -> Result<Created, ClientError> {
        let call = Call::new(Method::POST, "/sandboxes").json(request)?.streamed();
        self.watched(call, progress).await
    }

    /// Puts a sandbox away.
    pub async fn stop(
        &mut self,
        id: &str,
        progress: impl FnMut(String),
    ) -> Result<Sandbox, ClientError> {
        let call = Call::new(Method::POST, sandbox_path(id, "/stop")).streamed();
        Ok(self.watched(call, progress).await?.sandbox)
    }

    /// Brings a sandbox back; the answer has `started_from`.
    pub async fn start(
        &mut self,
        id: &str,
        request: &StartSandbox,
        progress: impl FnMut(String),
    ) -> Result<Sandbox, ClientError> {
        let call = Call::new(Method::POST, sandbox_path(id, "/start")).json(request)?.streamed();
        Ok(self.watched(call, progress).await?.sandbox)
    }

    /// Pauses a sandbox's vCPUs.
    pub async fn pause(&mut self, id: &str) -> Result<Sandbox, ClientError> {
        json(self.send(Call::new(Method::POST, sandbox_path(id, "/pause"))).await?).await
    }

    /// Lets a sandbox's vCPUs run.
    pub async fn resume(&mut self, id: &str) -> Result<Sandbox, ClientError> {
        json(self.send(Call::new(Method::POST, sandbox_path(id, "/resume"))).await?).await
    }

    /// Removes a sandbox with everything that it holds.
    pub async fn destroy(&mut self, id: &str) -> Result<Destroyed, ClientError> {
        json(self.send(Call::new(Method::DELETE, sandbox_path(id, ""))).await?).await
    }

    /// Runs a command and waits for its end.
    pub async fn exec(
        &mut self,
        id: &str,
        request: &ExecRequest,
    ) -> Result<ExecResponse, ClientError> {
        let call = Call::new(Method::POST, sandbox_path(id, "/exec")).json(request)?;
        json(self.send(call).await?).await
    }

    /// Runs a command and hands out its output as it comes. Dropping the events kills the command.
    pub async fn exec_stream(
        &mut self,
        id: &str,
        request: &ExecRequest,
    ) -> Result<Events<'_, StreamEvent>, ClientError> {
        let call = Call::new(Method::POST, sandbox_path(id, "/exec")).json(request)?.streamed();
        let response = self.send(call).await?;
        if !is_ndjson(&response) {
            return Err(ClientError::BadAnswer("the output does not come as a stream".to_owned()));
        }
        Ok(Events::new(response.into_body()))
    }

    /// Reads a file.
    pub async fn file_read(
        &mut self,
        id: &str,
        path: &str,
        part: FilePart,
    ) -> Result<FileContent<'_>, ClientError> {
        let mut query = file_query(id, path);
        let numbers =
            [("offset", part.offset), ("limit", part.limit), ("max_bytes", part.max_bytes)];
        for (name, number) in numbers {
            if let Some(number) = number {
                query.add(name, &number.to_string());
            }
        }
        let response = self.send(Call::new(Method::GET, query.0)).await?;
        let size = header_text(&response, headers::FILE_SIZE).and_then(|text| text.parse().ok());
        Ok(FileContent { size, body: response.into_body(), client: PhantomData })
    }

    /// Replaces a file with what `content` yields. `mode` is octal, such as `0644`. If `content`
    /// fails, the old file stays.
    pub async fn file_write(
        &mut self,
        id: &str,
        path: &str,
        mode: Option<&str>,
        content: impl AsyncRead + Unpin + Send + 'static,
    ) -> Result<FileWritten, ClientError> {
        let mut query = file_query(id, path);
        if let Some(mode) = mode {
            query.add("mode", mode);
        }
        let mut call = Call::new(Method::PUT, query.0);
        call.content = Content::Stream(Some(ReaderBody(content).boxed_unsync()));
        json(self.send(call).await?).await
    }

    /// Lists a directory.
    pub async fn file_list(&mut self, id: &str, path: &str) -> Result<Vec<FileInfo>, ClientError> {
        let mut query = file_query(id, path);
        query.add("ls", "true");
        json(self.send(Call::new(Method::GET, query.0)).await?).await
    }

    /// Describes a path.
    pub async fn file_stat(&mut self, id: &str, path: &str) -> Result<FileStat, ClientError> {
        let response = self.send(Call::new(Method::HEAD, file_query(id, path).0)).await?;
        let field = |name| {
            header_text(&response, name)
                .ok_or_else(|| ClientError::BadAnswer(format!("the header {name} is missing")))
        };
        let size = field(headers::FILE_SIZE)?;
        Ok(FileStat {
            size: size
                .parse()
                .map_err(|_| ClientError::BadAnswer(format!("{size:?} is no file size")))?,
            mode: field(headers::FILE_MODE)?.to_owned(),
            is_dir: field(headers::FILE_IS_DIR)? == "true",
        })
    }

    /// The images that a sandbox can be made of.
    pub async fn images(&mut self) -> Result<Vec<Image>, ClientError> {
        json(self.send(Call::new(Method::GET, "/images")).await?).await
    }

    /// All users. For administrators.
    pub async fn users(&mut self) -> Result<Vec<User>, ClientError> {
        json(self.send(Call::new(Method::GET, "/users")).await?).await
    }

    /// Adds a user. For administrators.
    pub async fn create_user(&mut self, request: &CreateUser) -> Result<UserKey, ClientError> {
        json(self.send(Call::new(Method::POST, "/users").json(request)?).await?).await
    }

    /// Removes a user, who must have no sandboxes. For administrators.
    pub async fn delete_user(&mut self, id: &str) -> Result<UserDeleted, ClientError> {
        json(self.send(Call::new(Method::DELETE, format!("/users/{}", encode(id)))).await?).await
    }

    /// Gives a user a new key; the old one stops working. For administrators.
    pub async fn rotate_key(&mut self, id: &str) -> Result<UserKey, ClientError> {
        let path = format!("/users/{}/rotate-key", encode(id));
        json(self.send(Call::new(Method::POST, path)).await?).await
    }

    /// Sends a call whose progress can be watched. A daemon that has nothing to report may answer
    /// with plain JSON.
    async fn watched(
        &mut self,
        call: Call,
        mut progress: impl FnMut(String),
    ) -> Result<Created, ClientError> {
        let response = self.send(call).await?;
        let known_existing = header_text(&response, headers::EXISTING) == Some("true");
        if !is_ndjson(&response) {
            return Ok(Created { sandbox: json(response).await?, existing: known_existing });
        }
        let mut events = Events::<ProgressEvent>::new(response.into_body());
        while let Some(event) = events.next().await? {
            match event {
                ProgressEvent::Progress { message } => progress(message),
                ProgressEvent::Result { sandbox, existing } => {
                    return Ok(Created { sandbox: *sandbox, existing: existing || known_existing });
                }
                ProgressEvent::Error(body) => return Err(ClientError::Api(Box::new(body))),
                ProgressEvent::Unknown => {}
            }
        }
        Err(ClientError::StreamCut)
    }
}

fn is_ndjson(response: &Response<Incoming>) -> bool {
    header_text(response, header::CONTENT_TYPE.as_str())
        .is_some_and(|value| value.split(';').next().map(str::trim) == Some(headers::NDJSON))
}

fn header_text<'a>(response: &'a Response<Incoming>, name: &str) -> Option<&'a str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

fn sandbox_path(id: &str, rest: &str) -> String {
    format!("/sandboxes/{}{rest}", encode(id))
}

fn file_query(id: &str, path: &str) -> Query {
    let mut query = Query::new(sandbox_path(id, "/files"));
    query.add("path", path);
    query
}

/// A path that query parameters are added to.
struct Query(String);

impl Query {
    fn new(path: String) -> Self {
        Self(path)
    }

    fn add(&mut self, name: &str, value: &str) {
        let separator = if self.0.contains('?') { '&' } else { '?' };
        let _ = write!(self.0, "{separator}{name}={}", encode(value));
    }
}

/// Encodes everything but unreserved characters, so that no name can change the route.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

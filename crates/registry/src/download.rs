//! Layers, several at a time, into files that hold what they should or do not stay.

use std::{
    collections::HashSet,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use base::hash;
use http::{StatusCode, header::CONTENT_RANGE};
use tokio::{
    fs::File,
    io::{AsyncSeekExt as _, AsyncWriteExt as _},
    sync::Semaphore,
    task::JoinSet,
    time::Instant,
};

use crate::{
    Digest, Error, Layer, STALL_BYTES,
    manifest::{Resolved, bad_digest},
    session::{Answer, Ask, Session},
};

/// How many layers are downloaded at once.
const AT_ONCE: usize = 4;
/// How often a download is taken up again without anything having come in between.
const FAILURES_MAX: u32 = 5;
/// How often it is taken up again at all.
const ATTEMPTS_MAX: u32 = 50;
/// How much is told at once, in bytes.
const STEP: u64 = 1 << 20;

/// An image in a registry, as it was when it was resolved.
#[derive(Debug)]
pub struct Remote {
    session: Arc<Session>,
    image: Resolved,
}

/// How far a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is here already and not downloaded.
    Present,
    /// It is being downloaded.
    Loading,
    /// It is in its file, verified.
    Loaded,
}

/// What is told while layers come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Which layer, counted from the lowest, which is 0.
    pub layer: usize,
    /// How far it is.
    pub state: State,
    /// What has come so far, in bytes.
    pub bytes: u64,
    /// What there is, in bytes.
    pub total: u64,
}

/// A layer in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downloaded {
    /// Which of [`Remote::layers`].
    pub index: usize,
    /// What it is.
    pub layer: Layer,
    /// Its blob, as the registry has it. Whoever is done with it removes it.
    pub path: PathBuf,
}

/// Layers on their way. Dropping this ends all downloads; what they leave is in the directory.
pub struct Downloads {
    tasks: JoinSet<Result<Downloaded, Error>>,
}

impl fmt::Debug for Downloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Downloads").field("left", &self.tasks.len()).finish()
    }
}

type Listener = Arc<dyn Fn(Progress) + Send + Sync>;

impl Remote {
    pub(crate) fn new(session: Arc<Session>, image: Resolved) -> Self {
        Self { session, image }
    }

    /// The digest of the image's manifest, for this platform.
    pub fn digest(&self) -> &Digest {
        &self.image.digest
    }

    /// The digest of what the reference itself means: of the index, if there is one.
    pub fn top_digest(&self) -> &Digest {
        &self.image.top
    }

    /// The image's configuration, as it is in the registry, verified.
    pub fn config(&self) -> &[u8] {
        &self.image.config
    }

    /// The layers, lowest first. One may be there several times.
    pub fn layers(&self) -> &[Layer] {
        &self.image.layers
    }

    /// Begins to download, into files in `directory`, the layers that are not `present`, each
    /// once. `listener` is told how it goes and must not block.
    pub fn download(
        &self,
        directory: &Path,
        present: impl Fn(&Layer) -> bool,
        listener: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Downloads {
        let listener: Listener = Arc::new(listener);
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let mut seen = HashSet::new();
        let mut tasks = JoinSet::new();
        for (index, layer) in self.image.layers.iter().enumerate() {
            if !seen.insert(&layer.diff_id) || present(layer) {
                let (bytes, total) = (layer.size, layer.size);
                listener(Progress { layer: index, state: State::Present, bytes, total });
                continue;
            }
            let download = Download {
                session: Arc::clone(&self.session),
                index,
                path: directory.join(layer.diff_id.hex()),
                layer: layer.clone(),
                listener: Arc::clone(&listener),
            };
            let turns = Arc::clone(&turns);
            tasks.spawn(async move {
                // Nobody closes it.
                let _turn = turns.acquire().await;
                download.run().await
            });
        }
        Downloads { tasks }
    }
}

impl Downloads {
    /// The next layer that is there, in any order; `None` after the last. After an error the
    /// others are given up.
    pub async fn next(&mut self) -> Option<Result<Downloaded, Error>> {
        let result = match self.tasks.join_next().await? {
            Ok(result) => result,
            Err(error) => Err(io::Error::other(error).into()),
        };
        if result.is_err() {
            self.tasks.abort_all();
            self.tasks.detach_all();
        }
        Some(result)
    }
}

struct Download {
    session: Arc<Session>,
    index: usize,
    layer: Layer,
    path: PathBuf,
    listener: Listener,
}

/// What has been written of a blob.
struct Part {
    file: File,
    hash: hash::Stream,
    size: u64,
    told: u64,
}

impl Part {
    async fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0).await?;
        self.file.rewind().await?;
        (self.hash, self.size, self.told) = (hash::Stream::default(), 0, 0);
        Ok(())
    }
}

impl Download {
    async fn run(self) -> Result<Downloaded, Error> {
        let result = self.fetch().await;
        let Self { index, layer, path, .. } = self;
        match result {
            Ok(()) => Ok(Downloaded { index, layer, path }),
            Err(error) => {
                // The caller removes the directory, too; this is sooner.
                let _ = fs_err::remove_file(&path);
                Err(error)
            }
        }
    }

    async fn fetch(&self) -> Result<(), Error> {
        let file = File::create_new(&self.path).await?;
        let mut part = Part { file, hash: hash::Stream::default(), size: 0, told: 0 };
        let (mut failures, mut attempts) = (0, 0);
        loop {
            let before = part.size;
            let error = match self.attempt(&mut part).await {
                Ok(()) => break,
                Err(error) => error,
            };
            failures = if part.size > before { 1 } else { failures + 1 };
            attempts += 1;
            if !error.is_passing() || failures >= FAILURES_MAX || attempts >= ATTEMPTS_MAX {
                return Err(error);
            }
            tracing::debug!(layer = %self.layer.digest, %error, "download broke off, tried again");
            self.wait(failures).await;
        }
        part.file.flush().await?;
        let found = Digest::from_hex(part.hash.finish());
        if found != self.layer.digest {
            return Err(bad_digest("a layer", &self.layer.digest, &found));
        }
        self.tell(State::Loaded, part.size);
        Ok(())
    }

    async fn wait(&self, failures: u32) {
        let delay = self.session.patience().retry * 2_u32.saturating_pow(failures - 1);
        #[expect(
            clippy::disallowed_methods,
            reason = "there is no event for a registry's recovery"
        )]
        tokio::time::sleep(delay).await;
    }

    /// Gets what is missing.
    async fn attempt(&self, part: &mut Part) -> Result<(), Error> {
        let total = self.layer.size;
        self.tell(State::Loading, part.size);
        if part.size == total && total > 0 {
            return Ok(());
        }
        let what = format!("blobs/{}", self.layer.digest);
        let ask = Ask { accept: None, from: part.size };
        let mut answer = self.session.fetch(&what, ask).await?;
        if !continues(&answer, part.size) {
            part.restart().await?;
        }
        let missing = total - part.size;
        if let Some(length) = answer.length().filter(|length| *length != missing) {
            return Err(self.wrong_size(part.size.saturating_add(length)));
        }
        let patience = self.session.patience().stall;
        let (mut until, mut came) = (Instant::now() + patience, 0);
        while let Some(piece) = answer.piece(until).await? {
            let size = part.size + piece.len() as u64;
            if size > total {
                return Err(self.wrong_size(size));
            }
            part.file.write_all(&piece).await?;
            part.hash.update(&piece);
            part.size = size;
            came += piece.len() as u64;
            if came >= STALL_BYTES {
                (until, came) = (Instant::now() + patience, 0);
            }
            if size - part.told >= STEP {
                part.told = size;
                self.tell(State::Loading, size);
            }
        }
        if part.size == total { Ok(()) } else { Err(self.broke_off(&answer)) }
    }

    fn wrong_size(&self, found: u64) -> Error {
        let what = format!("layer {}", self.layer.digest);
        let reason = format!("it has {found} bytes instead of {}", self.layer.size);
        Error::BadDigest { what, reason }
    }

    fn broke_off(&self, answer: &Answer) -> Error {
        let reason = format!("layer {} ends too early", self.layer.digest);
        Error::Unreachable { host: answer.host(), reason }
    }

    fn tell(&self, state: State, bytes: u64) {
        (self.listener)(Progress { layer: self.index, state, bytes, total: self.layer.size });
    }
}

/// Whether an answer begins at byte `from`, which was asked for.
fn continues(answer: &Answer, from: u64) -> bool {
    let range = || answer.headers.get(CONTENT_RANGE)?.to_str().ok();
    let begins = || range()?.strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok();
    answer.status == StatusCode::PARTIAL_CONTENT && begins() == Some(from)
}

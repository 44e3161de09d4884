//! What all sessions of this agent share.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::message::{Activity, Defaults, ErrorCode, WireError};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::Signal;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use crate::activity::{Counted, Counts, EXECS_MAX, Held, TUNNELS_MAX};
use crate::identity::{Generation, IdentityFiles, Kernel};
use crate::jobs::Jobs;
use crate::parts::{self, OpenPart};
use crate::reaper::Reaper;
use crate::services::Services;
use crate::sessions::Sessions;
use crate::users::{User, Users};
use crate::volumes::Volumes;

/// File operations that may run at once. All that may be under way at once is below what a session
/// can have open, so that there is always room for a question.
pub(crate) const FILE_OPERATIONS_MAX: usize = 64;

/// Paths that may be watched at once.
pub(crate) const WATCHES_MAX: usize = 32;

/// Archives that may be packed or unpacked at once; each has a thread of its own.
pub(crate) const ARCHIVES_MAX: usize = 8;

/// Operations on whole trees that go on at once, so that there are threads left for small ones.
const TREE_OPERATIONS: usize = 2;

/// Who this guest is.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) sandbox_id: String,
    pub(crate) token: Vec<u8>,
    pub(crate) env: BTreeMap<String, String>,
    /// What the image says about processes.
    pub(crate) defaults: Defaults,
}

/// See the module.
pub(crate) struct Agent {
    /// Where the guest's files are.
    pub(crate) root: PathBuf,
    /// Opens parts of images.
    pub(crate) parts: OpenPart,
    pub(crate) kernel: Box<dyn Kernel>,
    pub(crate) identity_files: IdentityFiles,
    pub(crate) generation: Generation,
    pub(crate) users: Users,
    pub(crate) reaper: Reaper,
    /// `/dev/null`, for commands without input.
    pub(crate) null: OwnedFd,
    pub(crate) file_operations: Semaphore,
    pub(crate) tree_operations: Semaphore,
    pub(crate) watches: Semaphore,
    pub(crate) archives: Semaphore,
    /// Told when the host wants the guest off.
    pub(crate) power_off: Notify,
    pub(crate) counts: Counts,
    pub(crate) jobs: Jobs,
    pub(crate) sessions: Sessions,
    pub(crate) volumes: Volumes,
    pub(crate) services: Arc<Services>,
    identity: Mutex<Option<Arc<Identity>>>,
    /// How many identities this agent has been given.
    identities: watch::Sender<u64>,
    /// Nanoseconds that a small command took, the least seen; none yet if zero.
    small_command: AtomicU64,
    last_operation: Mutex<Instant>,
    /// Whether the host has said that it will hang up.
    hang_up: AtomicBool,
}

impl Agent {
    /// An agent that nobody has told yet who it is.
    ///
    /// # Errors
    /// A descriptor that it needs cannot be had.
    pub(crate) fn blank(root: PathBuf, kernel: Box<dyn Kernel>) -> io::Result<Self> {
        Ok(Self {
            users: Users::at(&root),
            identity_files: IdentityFiles::open(&root)?,
            generation: Generation::begin(&root)?,
            jobs: Jobs::at(&root),
            services: Arc::new(Services::at(&root)),
            root,
            parts: parts::of_disks,
            kernel,
            reaper: Reaper::new()?,
            null: open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?,
            file_operations: Semaphore::new(FILE_OPERATIONS_MAX),
            tree_operations: Semaphore::new(TREE_OPERATIONS),
            watches: Semaphore::new(WATCHES_MAX),
            archives: Semaphore::new(ARCHIVES_MAX),
            power_off: Notify::new(),
            counts: Counts::default(),
            sessions: Sessions::default(),
            volumes: Volumes::default(),
            identity: Mutex::default(),
            identities: watch::Sender::new(0),
            small_command: AtomicU64::new(0),
            last_operation: Mutex::new(Instant::now()),
            hang_up: AtomicBool::new(false),
        })
    }

    pub(crate) fn identity(&self) -> Option<Arc<Identity>> {
        lock(&self.identity).clone()
    }

    pub(crate) fn set_identity(&self, identity: Identity) {
        *lock(&self.identity) = Some(Arc::new(identity));
        self.identities.send_modify(|count| *count += 1);
    }

    /// Whom commands run as that do not say: the image's user, or the usual one.
    ///
    /// # Errors
    /// The image names a user or group that the guest does not have.
    pub(crate) fn default_user(&self) -> Result<User, WireError> {
        let identity = self.identity();
        let said = identity.as_ref().and_then(|identity| identity.defaults.user.as_deref());
        let found = match said {
            Some(text) => self.users.of_image(text),
            None => self.users.find(None),
        };
        found.ok_or_else(|| {
            let said = said.unwrap_or_default();
            let message = format!("the image's user {said} does not exist in the guest");
            refuse(ErrorCode::UnknownUser, message)
        })
    }

    /// Tells which identity the guest has: the first is 1, and 0 is none.
    pub(crate) fn identities(&self) -> watch::Receiver<u64> {
        self.identities.subscribe()
    }

    /// Notes that an operation begins, goes on or ends.
    pub(crate) fn touch(&self) {
        *lock(&self.last_operation) = Instant::now();
    }

    /// Counts a command in the foreground as running.
    ///
    /// # Errors
    /// [`EXECS_MAX`] do already.
    pub(crate) fn begin_command(self: &Arc<Self>) -> Result<Held, WireError> {
        Held::within(self, Counted::Command, EXECS_MAX, "running commands")
    }

    /// Counts a connection to a port as open.
    ///
    /// # Errors
    /// [`TUNNELS_MAX`] are already.
    pub(crate) fn begin_tunnel(self: &Arc<Self>) -> Result<Held, WireError> {
        Held::within(self, Counted::Tunnel, TUNNELS_MAX, "open tunnels")
    }

    /// Signals a job or a session.
    ///
    /// # Errors
    /// There is none of that id, or no such signal.
    pub(crate) fn kill(&self, id: &str, signal: i32) -> Result<(), WireError> {
        let Some(signal) = Signal::from_named_raw(signal) else {
            return Err(refuse(ErrorCode::Invalid, format!("there is no signal {signal}")));
        };
        // Ids of jobs and of sessions have nothing in common.
        if id.starts_with('j') {
            self.jobs.kill(self, id, signal)
        } else {
            self.sessions.kill(self, id, signal)
        }
    }

    /// What a small command takes on this machine; the host has some timed before it records a
    /// template.
    pub(crate) fn small_command(&self) -> Duration {
        Duration::from_nanos(self.small_command.load(Ordering::Relaxed))
    }

    /// Notes what a small command took.
    pub(crate) fn learn_small_command(&self, took: Duration) {
        let known = self.small_command.load(Ordering::Relaxed);
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        if known == 0 || took < known {
            self.small_command.store(took, Ordering::Relaxed);
        }
    }

    /// Notes whether the host has said that it will hang up. One that does so without a word may
    /// not have got what was said last: this may be a copy.
    pub(crate) fn expect_hang_up(&self, expected: bool) {
        self.hang_up.store(expected, Ordering::Relaxed);
    }

    /// See [`expect_hang_up`](Self::expect_hang_up).
    pub(crate) fn expects_hang_up(&self) -> bool {
        self.hang_up.load(Ordering::Relaxed)
    }

    pub(crate) fn activity(&self) -> Activity {
        self.counts.activity(lock(&self.last_operation).elapsed())
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An error answer.
pub(crate) fn refuse(code: ErrorCode, message: impl Into<String>) -> WireError {
    WireError { code, message: message.into() }
}

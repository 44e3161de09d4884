//! What all sessions of this agent share.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::message::{Activity, ErrorCode, WireError};
use rustix::fs::{Mode, OFlags, open};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::identity::{IdentityFiles, Kernel};
use crate::reaper::Reaper;
use crate::users::Users;

/// Commands that may run at once.
pub(crate) const EXECS_MAX: u32 = 1000;

/// File operations that may run at once. Together with [`EXECS_MAX`] below what a session can
/// have open, so that there is always room for a question.
pub(crate) const FILE_OPERATIONS_MAX: usize = 64;

/// Paths that may be watched at once.
pub(crate) const WATCHES_MAX: usize = 32;

/// Archives that may be packed or unpacked at once; each has a thread of its own.
pub(crate) const ARCHIVES_MAX: usize = 8;

/// Connections to ports that may be open at once.
pub(crate) const TUNNELS_MAX: u32 = 256;

/// Operations on whole trees that go on at once, so that there are threads left for small ones.
const TREE_OPERATIONS: usize = 2;

/// Who this guest is.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) sandbox_id: String,
    pub(crate) token: Vec<u8>,
    pub(crate) env: BTreeMap<String, String>,
}

/// See the module.
pub(crate) struct Agent {
    /// Where the guest's files are.
    pub(crate) root: PathBuf,
    pub(crate) kernel: Box<dyn Kernel>,
    pub(crate) identity_files: IdentityFiles,
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
    identity: Mutex<Option<Arc<Identity>>>,
    running: AtomicU32,
    tunnels: AtomicU32,
    /// Nanoseconds that a small command took, the least seen; none yet if zero.
    small_command: AtomicU64,
    last_operation: Mutex<Instant>,
}

/// Held while a command runs.
pub(crate) struct Running(Arc<Agent>);

/// Held while a connection to a port is open.
pub(crate) struct Tunneling(Arc<Agent>);

impl Agent {
    /// An agent that nobody has told yet who it is.
    ///
    /// # Errors
    /// A descriptor that it needs cannot be had.
    pub(crate) fn blank(root: PathBuf, kernel: Box<dyn Kernel>) -> io::Result<Self> {
        Ok(Self {
            users: Users::at(&root),
            identity_files: IdentityFiles::open(&root)?,
            root,
            kernel,
            reaper: Reaper::new()?,
            null: open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?,
            file_operations: Semaphore::new(FILE_OPERATIONS_MAX),
            tree_operations: Semaphore::new(TREE_OPERATIONS),
            watches: Semaphore::new(WATCHES_MAX),
            archives: Semaphore::new(ARCHIVES_MAX),
            power_off: Notify::new(),
            identity: Mutex::default(),
            running: AtomicU32::new(0),
            tunnels: AtomicU32::new(0),
            small_command: AtomicU64::new(0),
            last_operation: Mutex::new(Instant::now()),
        })
    }

    pub(crate) fn identity(&self) -> Option<Arc<Identity>> {
        lock(&self.identity).clone()
    }

    pub(crate) fn set_identity(&self, identity: Identity) {
        *lock(&self.identity) = Some(Arc::new(identity));
    }

    /// Notes that an operation begins, goes on or ends.
    pub(crate) fn touch(&self) {
        *lock(&self.last_operation) = Instant::now();
    }

    /// Counts a command as running.
    ///
    /// # Errors
    /// [`EXECS_MAX`] do already.
    pub(crate) fn begin_command(self: &Arc<Self>) -> Result<Running, WireError> {
        if self.running.load(Ordering::Relaxed) >= EXECS_MAX {
            let message = format!("{EXECS_MAX} commands are running already");
            return Err(WireError { code: ErrorCode::Limit, message });
        }
        self.running.fetch_add(1, Ordering::Relaxed);
        Ok(Running(Arc::clone(self)))
    }

    /// Counts a connection to a port as open.
    ///
    /// # Errors
    /// [`TUNNELS_MAX`] are already.
    pub(crate) fn begin_tunnel(self: &Arc<Self>) -> Result<Tunneling, WireError> {
        if self.tunnels.load(Ordering::Relaxed) >= TUNNELS_MAX {
            let message = format!("{TUNNELS_MAX} connections to ports are open already");
            return Err(WireError { code: ErrorCode::Limit, message });
        }
        self.tunnels.fetch_add(1, Ordering::Relaxed);
        Ok(Tunneling(Arc::clone(self)))
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

    pub(crate) fn activity(&self) -> Activity {
        let idle = lock(&self.last_operation).elapsed();
        Activity {
            running: self.running.load(Ordering::Relaxed),
            tunnels: self.tunnels.load(Ordering::Relaxed),
            idle_ms: u64::try_from(idle.as_millis()).unwrap_or(u64::MAX),
            ..Activity::default()
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
        self.0.touch();
    }
}

impl Drop for Tunneling {
    fn drop(&mut self) {
        self.0.tunnels.fetch_sub(1, Ordering::Relaxed);
        self.0.touch();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An error answer.
pub(crate) fn refuse(code: ErrorCode, message: impl Into<String>) -> WireError {
    WireError { code, message: message.into() }
}

//! Waits for every child, whoever started it, so that no exit status is ever taken by the wrong
//! hands: nothing else in the agent waits for a child that the reaper may see.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use proto::message::Exited;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, waitid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, oneshot};

use crate::sys::{self, Spawned};

/// What the agent wants to hear of: children, and being told to stop.
pub(crate) const SIGNALS: [Signal; 3] = [Signal::CHILD, Signal::TERM, Signal::INT];

/// The kernel's record of one signal; the first four bytes are its number.
const SIGNAL_RECORD: usize = 128;

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
}

impl Ended {
    pub(crate) fn from_status(status: WaitStatus) -> Self {
        let signal = status.terminating_signal();
        // As shells count.
        let code = status.exit_status().or_else(|| signal.map(|signal| 128 + signal));
        Self { code: code.unwrap_or(-1), signal }
    }

    /// As the host is told.
    pub(crate) fn exited(self, timed_out: bool) -> Exited {
        Exited { code: self.code, signal: self.signal, timed_out }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Reaper {
    signals: AsyncFd<OwnedFd>,
    waiting: Mutex<HashMap<Pid, oneshot::Sender<Ended>>>,
    childless: Notify,
}

impl Reaper {
    /// Needs [`SIGNALS`] to be blocked in every thread.
    ///
    /// # Errors
    /// The kernel refuses another descriptor.
    pub(crate) fn new() -> io::Result<Self> {
        let signals = sys::watch(sys::signal_fd(&SIGNALS)?, Interest::READABLE)?;
        Ok(Self { signals, waiting: Mutex::default(), childless: Notify::new() })
    }

    /// Starts a child with `start` and answers how to hear of its end. The child is known before
    /// it can be reaped.
    pub(crate) fn adopt<E>(
        &self,
        start: impl FnOnce() -> Result<Spawned, E>,
    ) -> Result<(Spawned, oneshot::Receiver<Ended>), E> {
        let mut waiting = self.waiting();
        let started = start()?;
        let (sender, receiver) = oneshot::channel();
        waiting.insert(started.pid, sender);
        Ok((started, receiver))
    }

    /// Whether `pid` is a child that has been adopted and not been reaped: nobody else can have its
    /// number then.
    pub(crate) fn is_waited_for(&self, pid: Pid) -> bool {
        self.waiting().contains_key(&pid)
    }

    /// Reaps until the agent is told to stop.
    ///
    /// # Errors
    /// The signal descriptor fails.
    pub(crate) async fn run(&self) -> io::Result<()> {
        loop {
            let mut ready = self.signals.readable().await?;
            let mut records = [0; SIGNAL_RECORD * SIGNALS.len()];
            let count = match rustix::io::read(self.signals.get_ref(), &mut records) {
                Ok(count) => count,
                Err(Errno::AGAIN | Errno::INTR) => 0,
                Err(error) => return Err(error.into()),
            };
            // A signal is pending once at most, so one read takes all; a later one is a new event.
            ready.clear_ready();
            let mut numbers = records[..count].chunks_exact(SIGNAL_RECORD).map(signal_number);
            if numbers.any(|number| number != Some(Signal::CHILD.as_raw())) {
                return Ok(());
            }
            self.reap();
        }
    }

    /// Takes every child that has ended.
    fn reap(&self) {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let waiter = self.waiting().remove(&pid);
                    if let Some(waiter) = waiter {
                        // Whoever asked may have lost interest.
                        let _ = waiter.send(Ended::from_status(status));
                    }
                }
                Ok(None) => return,
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.childless.notify_waiters();
                    return;
                }
            }
        }
    }

    /// Waits until no child is left; [`Reaper::run`] must go on meanwhile.
    pub(crate) async fn childless(&self) {
        let notified = self.childless.notified();
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if !matches!(waitid(WaitId::All, look), Err(Errno::CHILD)) {
            notified.await;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Pid, oneshot::Sender<Ended>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn signal_number(record: &[u8]) -> Option<i32> {
    record.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes))
}

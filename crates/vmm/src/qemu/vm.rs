//! A running monitor.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base::{fault, process::Process};
use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::{Value, json};
use tokio::{
    io::AsyncReadExt as _, net::UnixStream, sync::OnceCell, task::JoinHandle, time::timeout,
};

use super::{
    launch::RAM_FD,
    qmp::{Event, Qmp},
};
use crate::{
    VmError,
    memory::{GuestMemory, Ram},
};

pub(super) const QMP_SOCKET: &str = "qmp.sock";
pub(super) const AGENT_SOCKET: &str = "agent.sock";
pub(super) const NOTICE_SOCKET: &str = "notice.sock";

/// How long a monitor may take to answer a command that needs no work.
pub(super) const ANSWER: Duration = Duration::from_secs(10);
/// How long a monitor that does not answer any more may take to be gone.
const DYING: Duration = Duration::from_millis(50);
/// How long the loading of a device state may take.
const LOAD: Duration = Duration::from_secs(30);
/// Number of the descriptor set through which device states are written.
const STATE_SET: u32 = 1000;
/// How much of the console and of stderr an error quotes, in bytes.
const QUOTED: usize = 1500;

/// What identifies a running VM across restarts of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmHandle {
    /// The monitor's process id.
    pub pid: i32,
    /// Its start time in clock ticks after boot.
    pub start_time: u64,
}

/// Where a monitor's stderr can be read.
#[derive(Debug)]
pub(super) enum Stderr {
    Kept(File),
    Nowhere,
}

/// The end of the guest's console, for error messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Console(pub String);

/// A virtual machine. Dropped, it is killed, unless [`leave_running`](Self::leave_running) was
/// called.
#[derive(Debug)]
pub struct Vm {
    process: Arc<Process>,
    run_dir: PathBuf,
    ram: Ram,
    stderr: Stderr,
    qmp: OnceCell<Qmp>,
    /// Under which number or name the monitor holds a device state that it has not loaded yet.
    later: Mutex<Option<String>>,
    /// Whether the monitor holds a file that a device state was written to.
    state_taken: AtomicBool,
    limited: Mutex<Option<JoinHandle<io::Result<()>>>>,
}

impl Vm {
    pub(super) fn new(
        process: Arc<Process>,
        run_dir: PathBuf,
        ram: Ram,
        stderr: Stderr,
        later: Option<String>,
    ) -> Self {
        Self {
            process,
            run_dir,
            ram,
            stderr,
            qmp: OnceCell::new(),
            later: Mutex::new(later),
            state_taken: AtomicBool::new(false),
            limited: Mutex::new(None),
        }
    }

    pub(super) fn with_limits(self, limited: JoinHandle<io::Result<()>>) -> Self {
        Self { limited: Mutex::new(Some(limited)), ..self }
    }

    /// The same monitor, of which it is known now whose it is: where its sockets are, how it is
    /// limited, and under which name it holds its device state.
    pub(super) fn become_of(
        self,
        run_dir: PathBuf,
        limited: JoinHandle<io::Result<()>>,
        later: String,
    ) -> Self {
        let (limited, later) = (Mutex::new(Some(limited)), Mutex::new(Some(later)));
        Self { run_dir, limited, later, ..self }
    }

    /// The same VM, whose directory of control sockets has another name now.
    #[must_use]
    pub fn moved(self, run_dir: PathBuf) -> Self {
        Self { run_dir, ..self }
    }

    /// Waits until the limits of the control group hold, which is to be done before anybody may
    /// use the guest.
    pub async fn limits_hold(&self) -> Result<(), VmError> {
        let limited = self.limited.lock().unwrap_or_else(|e| e.into_inner()).take();
        let Some(limited) = limited else { return Ok(()) };
        match limited.await.map_err(io::Error::other).flatten() {
            Ok(()) => Ok(()),
            // A monitor that is gone cannot be moved; that it is gone says more.
            Err(error) => match timeout(DYING, self.ended()).await {
                Ok(ended) => Err(ended),
                Err(_) => Err(VmError::io("limit the monitor's resources")(error)),
            },
        }
    }

    /// Takes up a VM that an earlier daemon launched. `None` if it is gone.
    pub fn adopt(handle: VmHandle, run_dir: PathBuf) -> Result<Option<Self>, VmError> {
        let adopted = Process::adopt(handle.pid, handle.start_time)
            .map_err(VmError::io("take up a running monitor"))?;
        let Some(process) = adopted else { return Ok(None) };
        let stderr = match fs_err::File::open(format!("/proc/{}/fd/2", handle.pid)) {
            Ok(file) => Stderr::Kept(file.into()),
            Err(_) => Stderr::Nowhere,
        };
        let ram = fs_err::OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/proc/{}/fd/{RAM_FD}", handle.pid))
            .and_then(|file| Ram::from_file(file.into_parts().0.into()))
            .map_err(VmError::io("take up a running guest's memory"))?;
        Ok(Some(Self::new(Arc::new(process), run_dir, ram, stderr, None)))
    }

    /// What the store keeps.
    pub fn handle(&self) -> VmHandle {
        VmHandle { pid: self.process.pid(), start_time: self.process.start_time() }
    }

    /// The way to the guest agent.
    pub fn guest_port(&self) -> GuestPort<'_> {
        GuestPort { vm: self }
    }

    /// Waits until the monitor is gone and says how and with which last words.
    pub async fn ended(&self) -> VmError {
        let exit = self.process.exited().await;
        VmError::Ended { exit, stderr: self.stderr_tail() }
    }

    /// How it ended, if it has, or is about to: that it cannot be talked to is seen a little earlier.
    pub async fn gone(&self) -> Option<VmError> {
        timeout(DYING, self.ended()).await.ok()
    }

    /// The end of what the monitor wrote to stderr.
    pub fn stderr_tail(&self) -> String {
        let Stderr::Kept(file) = &self.stderr else { return String::new() };
        let mut text = vec![0u8; 64 << 10];
        let n = file.read_at(&mut text, 0).unwrap_or(0);
        text.truncate(n);
        quote(&text)
    }

    /// The end of what the guest printed to its console.
    pub async fn console_tail(&self) -> Console {
        let asked = self.command(
            "ringbuf-read",
            json!({"device": "console", "size": super::argv::CONSOLE_RING}),
        );
        match asked.await {
            Ok(text) => Console(quote(text.as_str().unwrap_or_default().as_bytes())),
            Err(_) => Console(String::new()),
        }
    }

    /// Stops the vCPUs and flushes the disks to their files.
    pub async fn pause(&self) -> Result<(), VmError> {
        self.command("stop", json!({})).await.map(drop)
    }

    /// Lets the vCPUs run.
    pub async fn resume(&self) -> Result<(), VmError> {
        let qmp = self.qmp().await?;
        qmp.fed();
        self.command("cont", json!({})).await?;
        if self.state_taken.swap(false, Ordering::Relaxed) {
            // Only now, because while the guest stands still the monitor closes no descriptor of a
            // set. If there is none, there is nothing to close.
            let _ = self.command("remove-fd", json!({"fdset-id": STATE_SET})).await;
        }
        Ok(())
    }

    /// Whether the vCPUs run.
    pub async fn is_running(&self) -> Result<bool, VmError> {
        let status = self.command("query-status", json!({})).await?;
        Ok(status["running"].as_bool().unwrap_or(false))
    }

    /// Writes the device state of a paused VM to a new file, flushed. The VM stays as it is and
    /// may be resumed.
    pub async fn save_devices(&self, path: &Path) -> Result<(), VmError> {
        // The monitor writes to memory and we to the disk: of a full disk it would only say that an
        // I/O error has occurred.
        let state = self.device_state().await?;
        copy_flushed(state, path).map_err(VmError::io("write the device state"))
    }

    /// The device state of a paused VM, in a memory file at offset 0. The VM stays as it is and
    /// may be resumed.
    pub async fn device_state(&self) -> Result<OwnedFd, VmError> {
        let staging = memfd_create("bhatti-state", MemfdFlags::CLOEXEC)
            .map_err(|errno| VmError::io("make room for the device state")(errno.into()))?;
        let qmp = self.qmp().await?;
        // QEMU takes a descriptor for writing only if it is for nothing else.
        let to = fs_err::OpenOptions::new()
            .write(true)
            .open(format!("/proc/self/fd/{}", staging.as_raw_fd()))
            .map_err(VmError::io("make room for the device state"))?;
        let set = json!({"fdset-id": STATE_SET});
        // "live" would make QEMU give up its disks, because Xen then goes on somewhere else.
        let target = json!({"filename": format!("/dev/fdset/{STATE_SET}"), "live": false});
        self.state_taken.store(true, Ordering::Relaxed);
        // Sent together, because the guest waits.
        let saved = async {
            let (added, saved) = tokio::join!(
                biased;
                qmp.command_with("add-fd", set, Some(to.file().as_fd())),
                qmp.command("xen-save-devices-state", target),
            );
            added.and(saved)
        };
        self.guard("the device state", LOAD, saved).await?;
        Ok(staging)
    }

    /// Waits until the guest stands still because the host's disk is full. It goes on from there
    /// when it is resumed.
    pub async fn out_of_space(&self) -> Result<(), VmError> {
        self.qmp().await?.starved().await;
        Ok(())
    }

    /// Loads the device state of a VM that was launched to be restored later, and lets it run.
    pub async fn load(&self) -> Result<(), VmError> {
        let held = self.later.lock().unwrap_or_else(|e| e.into_inner()).take();
        let held = held.ok_or_else(|| {
            VmError::io("load a device state")(io::Error::other("there is none to load"))
        })?;
        let qmp = self.qmp().await?;
        let mut events = qmp.events();
        self.command("migrate-incoming", json!({"uri": format!("fd:{held}")})).await?;
        let running = async {
            loop {
                match events.recv().await {
                    Ok(Event { name, .. }) if name == "RESUME" => return Ok(()),
                    Ok(_) => {}
                    // Too slow for the events, or the connection is gone: ask.
                    Err(_) if self.is_running().await? => return Ok(()),
                    Err(_) => return Err(self.ended().await),
                }
            }
        };
        self.guard("the loading of the device state", LOAD, running).await
    }

    /// Waits until the monitor serves its control socket, which is after the guest's memory is
    /// mapped.
    pub async fn answers(&self) -> Result<(), VmError> {
        self.qmp().await.map(drop)
    }

    /// The guest's memory as this host sees it, for [`crate::memory`].
    pub fn memory(&self) -> Result<GuestMemory, VmError> {
        GuestMemory::of(self.process.pid(), self.ram.clone())
    }

    /// What the guest's memory takes on the host besides its template's, and a little more: bytes.
    pub fn private_bytes(&self) -> Result<u64, VmError> {
        let path = format!("/proc/{}/status", self.process.pid());
        let text = fs_err::read_to_string(path).map_err(VmError::io("look at the monitor"))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        };
        // Of a child the shared pages are its template's.
        let shared = if self.shares_template() { 0 } else { field("RssShmem:").unwrap_or(0) };
        Ok((field("RssAnon:").unwrap_or(0) + shared) << 10)
    }

    /// Whether the VM is a child of a template, and not one that booted by itself.
    pub fn shares_template(&self) -> bool {
        self.ram.is_sealed()
    }

    /// Kills the monitor and waits until it is gone.
    pub async fn kill(&self) {
        self.process.kill_and_wait().await;
    }

    /// Lets the monitor run on when this daemon ends.
    pub fn leave_running(self) {
        if let Ok(mut process) = Arc::try_unwrap(self.process) {
            process.leave_running();
        }
    }

    pub(super) async fn command(
        &self,
        name: &'static str,
        arguments: Value,
    ) -> Result<Value, VmError> {
        let qmp = self.qmp().await?;
        self.guard(name, ANSWER, qmp.command(name, arguments)).await
    }

    pub(super) async fn qmp(&self) -> Result<&Qmp, VmError> {
        self.qmp
            .get_or_try_init(|| async {
                let connect = async {
                    let path = self.run_dir.join(QMP_SOCKET);
                    let stream =
                        UnixStream::connect(path).await.map_err(VmError::io("connect to QMP"))?;
                    Qmp::open(stream).await
                };
                self.guard("its control socket", ANSWER, connect).await
            })
            .await
    }

    /// Whatever is waited for, the end of the monitor and the deadline come first.
    pub(super) async fn guard<T>(
        &self,
        what: &'static str,
        limit: Duration,
        work: impl Future<Output = Result<T, VmError>>,
    ) -> Result<T, VmError> {
        let raced = async {
            tokio::select! {
                biased;
                done = work => done,
                ended = self.ended() => Err(ended),
            }
        };
        match timeout(limit, raced).await {
            // A broken connection is how a death is seen first; the death itself says more.
            Ok(Err(error)) if !matches!(error, VmError::Ended { .. }) => {
                match timeout(DYING, self.ended()).await {
                    Ok(ended) if is_disconnect(&error) => Err(ended),
                    _ => Err(error),
                }
            }
            Ok(done) => done,
            Err(_) => Err(VmError::Silent { what, seconds: limit.as_secs() }),
        }
    }
}

fn copy_flushed(from: OwnedFd, path: &Path) -> io::Result<()> {
    let from = File::from(from);
    let mut state = vec![0; usize::try_from(from.metadata()?.len()).unwrap_or(0)];
    from.read_exact_at(&mut state, 0)?;
    let mut file = fs_err::OpenOptions::new().write(true).create_new(true).open(path)?;
    fault::point("devices.write")?;
    io::Write::write_all(&mut file, &state)?;
    fault::point("devices.flush")?;
    file.sync_all()
}

fn is_disconnect(error: &VmError) -> bool {
    match error {
        VmError::Refused { reason, .. } => reason == super::qmp::GONE,
        VmError::Io { .. } => true,
        _ => false,
    }
}

fn quote(text: &[u8]) -> String {
    let end = text.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    let tail = &text[end.saturating_sub(QUOTED)..end];
    String::from_utf8_lossy(tail).trim().to_owned()
}

/// The host's end of the guest agent's port.
#[derive(Debug, Clone, Copy)]
pub struct GuestPort<'a> {
    vm: &'a Vm,
}

impl GuestPort<'_> {
    /// Connects; the guest sees its port open. Only one connection at a time makes sense.
    pub async fn connect(&self) -> Result<UnixStream, VmError> {
        self.open("connect to the guest agent's port", AGENT_SOCKET).await
    }

    /// Starts to listen for what the agent says of its end, which must be before the connection is
    /// closed that the agent is to notice.
    ///
    /// The agent says it on a port of its own. The monitor's own event about the guest's end of
    /// the port is limited to one a second, and so is no use here.
    pub async fn watch(&self) -> Result<PortWatch, VmError> {
        let stream = self.open("connect to the guest agent's notice port", NOTICE_SOCKET).await?;
        Ok(PortWatch { stream })
    }

    /// That the monitor is gone says more than that nobody listens on its socket.
    async fn open(&self, what: &'static str, socket: &str) -> Result<UnixStream, VmError> {
        let path = self.vm.run_dir.join(socket);
        let connect = async { UnixStream::connect(path).await.map_err(VmError::io(what)) };
        self.vm.guard(what, ANSWER, connect).await
    }
}

/// Hears the guest agent say that it waits for a connection.
#[derive(Debug)]
pub struct PortWatch {
    stream: UnixStream,
}

impl PortWatch {
    /// Waits until the agent has noticed that the host hung up and waits for the next connection.
    /// Says whether that came to pass within `limit`.
    pub async fn noticed(mut self, limit: Duration) -> bool {
        let mut byte = [0];
        matches!(timeout(limit, self.stream.read(&mut byte)).await, Ok(Ok(1)))
    }
}

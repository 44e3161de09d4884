//! A daemon of our own, and what it must not leave behind.

use std::{
    os::unix::{fs::DirBuilderExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use api::client::{Client, Endpoint};
use base::process::{Command, Process, start_time};
use fs_err as fs;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::unix::pipe,
    sync::watch,
    time::{Instant, timeout},
};
use vmm::cgroup::Hierarchy;

use crate::{commands::doctor::host, failure::hinted};

/// What a daemon says on stderr once requests are served and its engine is chosen.
const SERVES: &str = " serves on ";
/// What is taken from the user's data directory instead of being made again.
const SHARED: [&str; 3] = ["kernels", "images", "initramfs"];
const VERDICT: &str = "kvm-verdict.json";
/// Names files of our own, so that neither client nor daemon read the user's configuration.
const CONFIG_VARIABLE: &str = "BHATTI_CONFIG";
const CONFIG: &str = "config.toml";
const DAEMON_CONFIG_VARIABLE: &str = "BHATTI_DAEMON_CONFIG";
const DAEMON_CONFIG: &str = "daemon.toml";
/// A public listener that takes whatever comes, because what is measured is not how it refuses.
const PUBLIC: &str = "[public]\nlisten = '127.0.0.1:0'\n[public.limits]\n\
    client = { per_min = 0, burst = 0 }\nalias = { per_min = 0, burst = 0 }\n\
    all = { per_min = 0, burst = 0 }\n";
/// How long a daemon may take to start; a first one may have to find out about KVM.
const START: Duration = Duration::from_secs(60);
/// How long a daemon may take to end, and to destroy what it runs.
const END: Duration = Duration::from_secs(30);
/// Lines of a daemon's log that an error quotes.
const QUOTED: usize = 10;

/// Makes a private directory on a file system that really stores things.
pub(super) fn make_scratch() -> Result<PathBuf> {
    let places = [std::env::temp_dir(), "/tmp".into(), "/var/tmp".into()];
    let real = |place: &&PathBuf| {
        place.is_dir() && !["tmpfs", "ramfs"].contains(&host::file_system_of(place).as_str())
    };
    let place = places.iter().find(real).ok_or_else(|| {
        hinted(
            "temporary directories are kept in memory here",
            "name a directory on a disk in TMPDIR",
        )
    })?;
    let path = fs::canonicalize(place)?.join(format!("bhatti-bench-{}", base::random::hex::<4>()));
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&path)
        .with_context(|| format!("make {}", path.display()))?;
    Ok(path)
}

/// Makes `data` a data directory without any state, with the kernels and images of `of` unless it has its
/// own.
pub(super) fn prepare(data: &Path, of: &Path, verdict: &Path) -> Result<()> {
    fs::create_dir_all(data)?;
    for name in SHARED {
        let (target, place) = (of.join(name), data.join(name));
        if target.is_dir() && !place.exists() {
            fs::os::unix::fs::symlink(target, place)?;
        }
    }
    let verdict = verdict.join(VERDICT);
    if verdict.exists() {
        fs::copy(verdict, data.join(VERDICT))?;
    }
    fs::write(data.join(DAEMON_CONFIG), "")?;
    Ok(fs::write(data.join(CONFIG), "")?)
}

/// Has the daemon in the prepared directory `data` serve published ports.
pub(super) fn serve_public(data: &Path) -> Result<()> {
    Ok(fs::write(data.join(DAEMON_CONFIG), PUBLIC)?)
}

/// Our own program with `arguments`, for the daemon in `data`.
pub(super) fn command(data: &Path, arguments: &[&str]) -> Result<Command> {
    let program = std::env::current_exe().context("find this program")?;
    let command = Command::new(program).arg("--data-dir").arg(data).args(arguments);
    let command = command.env(CONFIG_VARIABLE, data.join(CONFIG));
    let command = command.env(DAEMON_CONFIG_VARIABLE, data.join(DAEMON_CONFIG));
    Ok(command.stdout(std::process::Stdio::null()))
}

/// A running daemon. Dropped, it is killed, and its VMs run on.
#[derive(Debug)]
pub(super) struct Daemon {
    process: Process,
    data: PathBuf,
}

impl Daemon {
    /// Starts one in the prepared directory `data`; says how long it was until it had chosen its
    /// engine and answered a first request.
    pub(super) async fn start(data: &Path) -> Result<(Self, Duration)> {
        let (reader, writer) = std::io::pipe().context("make a pipe")?;
        let mut command =
            command(data, &["serve", "--listen", "none", "--network", "isolated"])?.stderr(writer);
        // Ctrl-C is ours: the daemon has to live on to destroy its VMs.
        command.as_std_mut().process_group(0);
        let start = Instant::now();
        let daemon = Self { process: command.spawn()?, data: data.to_owned() };
        let log = Log::read(reader.into())?;
        let ready = async {
            log.says_that_it_serves().await?;
            daemon.client()?.health().await.map_err(anyhow::Error::from)
        };
        match timeout(START, ready).await {
            Ok(Ok(_)) => Ok((daemon, start.elapsed())),
            Ok(Err(error)) => Err(error.context(log.tail())),
            Err(_) => bail!("the daemon did not start in {} s: {}", START.as_secs(), log.tail()),
        }
    }

    pub(super) fn pid(&self) -> i32 {
        self.process.pid()
    }

    pub(super) fn data(&self) -> &Path {
        &self.data
    }

    /// A client with the administrator's key.
    pub(super) fn client(&self) -> Result<Client> {
        let key = fs::read_to_string(self.data.join("admin.key"))?;
        let endpoint = Endpoint::Unix(self.data.join("api.sock"));
        Ok(Client::new(endpoint, Some(key.trim().to_owned())))
    }

    /// Waits until it has ended, which it should not; `None` after `limit`.
    pub(super) async fn ends_within(&self, limit: Duration) -> Option<base::process::Exit> {
        timeout(limit, self.process.exited()).await.ok()
    }

    /// Destroys every sandbox.
    pub(super) async fn destroy_all(&self) -> Result<()> {
        let destroyed = async {
            let mut client = self.client()?;
            for sandbox in client.sandboxes(&[]).await? {
                client.destroy(&sandbox.id).await?;
            }
            Ok(())
        };
        timeout(END, destroyed).await.context("the daemon does not answer")?
    }

    /// Asks it to end and waits until it has.
    pub(super) async fn end(self) -> Result<()> {
        let pid = Pid::from_raw(self.pid()).context("the daemon has no process id")?;
        // An error means that it is gone, which is what is wanted.
        let _ = kill_process(pid, Signal::TERM);
        match self.ends_within(END).await {
            Some(_) => Ok(()),
            None => bail!("the daemon did not end in {} s and was killed", END.as_secs()),
        }
    }
}

/// Process ids of the monitors of the node in `data` that have the disk of a sandbox open whose id begins
/// with `id`. A monitor may have been started before there was a sandbox for it, so its marker does not say.
pub(super) fn monitors(data: &Path, id: &str) -> Result<Vec<i32>> {
    let disks = data.join("sandboxes").join(id);
    let disks = disks.to_string_lossy();
    let opens = |pid: &i32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
        open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .any(|path| path.to_string_lossy().starts_with(&*disks))
    };
    let marked = vmm::marked(&format!("{}/", orchestrator::node_tag(data)))?;
    Ok(marked.into_iter().map(|(pid, _)| pid).filter(opens).collect())
}

/// Kills the VMs and removes the control groups that the node in `data` left, if it left any.
pub(super) async fn sweep(data: &Path) -> Result<()> {
    let tag = orchestrator::node_tag(data);
    for (pid, _) in vmm::marked(&format!("{tag}/"))? {
        let Ok(started) = start_time(pid) else { continue };
        if let Some(vm) = Process::adopt(pid, started)? {
            vm.kill_and_wait().await;
        }
    }
    let groups = Hierarchy::detect();
    for name in groups.existing().iter().filter(|name| name.starts_with(&format!("{tag}-"))) {
        let _ = groups.adopt(name).remove();
    }
    Ok(())
}

/// What a daemon writes to stderr.
#[derive(Debug)]
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    serves: watch::Receiver<bool>,
}

impl Log {
    /// Reads until the daemon has ended.
    fn read(from: std::os::fd::OwnedFd) -> Result<Self> {
        let pipe = pipe::Receiver::from_owned_fd(from).context("read the daemon's log")?;
        let (announce, serves) = watch::channel(false);
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&lines);
        tokio::spawn(async move {
            let mut reader = BufReader::new(pipe).lines();
            while let Ok(Some(line)) = reader.next_line().await {
                if line.contains(SERVES) {
                    announce.send_replace(true);
                }
                let mut kept = kept.lock().unwrap_or_else(|e| e.into_inner());
                if kept.len() == QUOTED {
                    kept.remove(0);
                }
                kept.push(line);
            }
        });
        Ok(Self { lines, serves })
    }

    async fn says_that_it_serves(&self) -> Result<()> {
        let mut serves = self.serves.clone();
        serves.wait_for(|serves| *serves).await.map(drop).context("the daemon ended")
    }

    fn tail(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(|e| e.into_inner());
        format!("the daemon said: {}", lines.join("; "))
    }
}

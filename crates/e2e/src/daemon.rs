//! One run of the daemon's process and what it says on stderr.

use std::{
    ffi::OsString,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use base::process::Command;
use rustix::process::{Pid, Signal, kill_process};

use crate::machine::Machine;

/// A daemon that has said nothing for so long hangs.
const HANGS: Duration = Duration::from_secs(120);

/// A user of the host that nothing else runs as, for daemons that are not root's.
pub const ORDINARY: u32 = 61_234;

/// As whom a daemon runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RunAs {
    /// Root.
    #[default]
    Root,
    /// An ordinary user, [`ORDINARY`].
    User,
    /// The same, where the host does not let users make namespaces.
    UserWithoutNamespaces,
}

/// Nobody may make a user namespace whose root directory is not the host's.
const NO_NAMESPACES: &str = "mount --make-rprivate / && mount --rbind / \"$0\" && \
    exec chroot --userspec=USER:USER \"$0\" \"$@\"";

impl RunAs {
    /// A program that runs so; `data` is a data directory of [`ORDINARY`]'s, if that is who runs it.
    pub(crate) fn command(self, binary: &Path, data: &Path) -> Command {
        match self {
            Self::Root => Command::new(binary),
            Self::User => {
                let mut command = Command::new(binary);
                // Groups of root's go with the user id.
                command.as_std_mut().gid(ORDINARY).uid(ORDINARY);
                command
            }
            Self::UserWithoutNamespaces => Command::new("unshare")
                .args([
                    "--mount",
                    "sh",
                    "-c",
                    &NO_NAMESPACES.replace("USER", &ORDINARY.to_string()),
                ])
                .arg(data.join("root"))
                .arg(binary),
        }
    }
}

/// Lines as they come.
#[derive(Debug, Default)]
pub(crate) struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    grown: Condvar,
}

impl Log {
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    fn push(&self, line: Option<String>) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        match line {
            Some(line) => lines.0.push(line),
            None => lines.1 = true,
        }
        self.grown.notify_all();
    }

    /// Waits for a line with `text`; `None` if the process ends without one.
    pub(crate) fn wait_for(&self, text: &str) -> Option<String> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(line) = lines.0.iter().find(|line| line.contains(text)) {
                return Some(line.clone());
            }
            if lines.1 {
                return None;
            }
            let waited = self.grown.wait_timeout(lines, HANGS);
            let (again, result) = waited.unwrap_or_else(PoisonError::into_inner);
            assert!(!result.timed_out(), "the daemon hangs; it said: {:#?}", again.0);
            lines = again;
        }
    }
}

/// A daemon that runs.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    reader: Option<JoinHandle<()>>,
    pub(crate) log: Arc<Log>,
    pub(crate) tcp: SocketAddr,
}

impl Daemon {
    /// Starts a daemon and waits until it serves. Its sandboxes have a way out if there is a
    /// machine that it runs on, and it never touches the network of the real one.
    ///
    /// # Errors
    /// What it said, if it ended instead.
    pub(crate) fn start(
        binary: &Path,
        data: &Path,
        environment: &[(&str, OsString)],
        machine: Option<&Machine>,
        run_as: RunAs,
    ) -> Result<Self, String> {
        let mut command = run_as.command(binary, data);
        for (name, value) in environment {
            command = command.env(name, value);
        }
        let network: &[&str] = match (run_as, machine) {
            (RunAs::Root, Some(_)) => &["--network", "nat"],
            (RunAs::Root, None) => &["--network", "isolated"],
            // What is the default there is tested with it.
            _ => &[],
        };
        let command = command
            .env("HOME", data)
            .env("RUST_BACKTRACE", "1")
            // Not the file of this machine's own daemon.
            .env("BHATTI_CONFIG", "/dev/null")
            .arg("--data-dir")
            .arg(data)
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(network)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let spawned = match machine {
            Some(machine) => machine.run(|| command.spawn_child()),
            None => command.spawn_child(),
        };
        let mut child = spawned.map_err(|error| base::chain(&error))?;
        let log = Arc::new(Log::default());
        let (stderr, to) = (child.stderr.take().expect("stderr is piped"), Arc::clone(&log));
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                to.push(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            to.push(None);
        });
        let Some(line) = log.wait_for("serves on") else {
            let _ = child.wait();
            let _ = reader.join();
            return Err(log.lines().join("\n"));
        };
        // Said after everything is known about the engine, or why there is none.
        let tcp = line.rsplit_once("://").and_then(|(_, address)| address.trim().parse().ok());
        let tcp = tcp.ok_or_else(|| format!("no TCP address in {line:?}"))?;
        Ok(Self { child, reader: Some(reader), log, tcp })
    }

    pub(crate) fn pid(&self) -> i32 {
        Pid::from_child(&self.child).as_raw_pid()
    }

    /// Kills it without warning.
    pub(crate) fn kill9(mut self) {
        let _ = self.child.kill();
        let _ = self.wait();
    }

    /// Asks it to end, waits until it has, and says how.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        self.wait()
    }

    /// Waits until it ends by itself, and says how.
    pub(crate) fn ended(mut self) -> ExitStatus {
        self.wait()
    }

    fn wait(&mut self) -> ExitStatus {
        let status = self.child.wait().expect("the daemon is our child");
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        status
    }
}

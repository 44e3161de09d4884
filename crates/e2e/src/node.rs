//! A daemon of a test's own.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Output, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use api::{
    CreateUser,
    client::{Client, Endpoint},
};
use base::process::Command;
use tempfile::TempDir;

use crate::{
    daemon::{Daemon, Log, RunAs},
    faults::Faults,
    host::{self, Tmpfs},
    machine::Machine,
    prepared::{self, Prepared, prepared},
};

/// How a node is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether there are kernels and images.
    pub kernels: bool,
    /// Whether it has the recorded templates of this machine, or none.
    pub recorded_templates: bool,
    /// If set, sandboxes and snapshots lie on a file system of this many bytes.
    pub sandboxes_bytes: Option<u64>,
    /// If set, the whole data directory is a file system of this many bytes, with the image `busybox` and
    /// without recorded templates, whatever else is said.
    pub data_bytes: Option<u64>,
    /// Whether its daemon is the one in which [`Faults`] can make something go wrong. What it says
    /// of that in its log is no failure of the test then, unless it panics.
    pub faults: bool,
    /// If set, available memory below which the daemon puts idle sandboxes on disk early, MB.
    pub memory_low_mb: Option<u64>,
    /// How many monitors and how many guests the daemon keeps ready.
    pub prestarted: usize,
    /// The daemon's configuration file.
    pub config: &'static str,
    /// The machine that its daemon runs on, whose network its sandboxes go out by. Without one they
    /// have no way out.
    pub machine: Option<Machine>,
    /// As whom its daemon runs. A user's records its own templates, since root's are of no use to it.
    pub run_as: RunAs,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kernels: true,
            recorded_templates: true,
            sandboxes_bytes: None,
            data_bytes: None,
            faults: false,
            memory_low_mb: None,
            prestarted: 0,
            config: "",
            machine: None,
            run_as: RunAs::Root,
        }
    }
}

/// A data directory with a daemon. At its end all sandboxes are destroyed through the interface,
/// the daemon is ended, and nothing may be left of either on the host.
#[derive(Debug)]
pub struct Node {
    daemon: Option<Daemon>,
    mounted: Option<Tmpfs>,
    binary: PathBuf,
    faults: Option<Faults>,
    memory_low_mb: Option<u64>,
    prestarted: usize,
    machine: Option<Machine>,
    run_as: RunAs,
    logs: Vec<Arc<Log>>,
    keys: Mutex<Vec<String>>,
    expected: Mutex<Vec<&'static str>>,
    /// Last, because everything above lies in it.
    data: TempDir,
}

impl Node {
    /// A node as most tests want it.
    pub fn start() -> Self {
        Self::with(&Options::default())
    }

    /// A node with other options.
    pub fn with(options: &Options) -> Self {
        Self::start_on(prepared(), options)
    }

    pub(crate) fn start_on(prepared: &Prepared, options: &Options) -> Self {
        // A control socket's path may have 107 bytes, so the name is short.
        let made = tempfile::Builder::new().prefix("b").tempdir_in("/tmp");
        let data = made.expect("a temporary directory can be made");
        let whole = options.data_bytes.map(|bytes| Tmpfs::on(data.path(), bytes));
        prepared.furnish(data.path(), options).expect("a data directory can be furnished");
        let sandboxes = options.sandboxes_bytes.map(|bytes| {
            small_file_system(data.path(), bytes).expect("a small file system can be had")
        });
        let config = data.path().join("daemon.toml");
        fs_err::write(&config, options.config).expect("a configuration can be written");
        let mut binary = if options.faults { prepared.faulty() } else { prepared.binary.clone() };
        if options.run_as != RunAs::Root {
            binary =
                prepared::give_away(data.path(), &binary).expect("a directory can be given away");
        }
        let mut node = Self {
            daemon: None,
            mounted: whole.or(sandboxes),
            binary,
            faults: options.faults.then(|| Faults::of(data.path())),
            logs: Vec::new(),
            keys: Mutex::default(),
            memory_low_mb: options.memory_low_mb,
            prestarted: options.prestarted,
            machine: options.machine.clone(),
            run_as: options.run_as,
            expected: Mutex::default(),
            data,
        };
        node.restart();
        node
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    /// The program that is tested.
    pub fn binary(&self) -> PathBuf {
        self.binary.clone()
    }

    /// The daemon's Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.data().join("api.sock")
    }

    /// The daemon's TCP address.
    pub fn tcp(&self) -> SocketAddr {
        self.running().tcp
    }

    /// The public listener's address.
    ///
    /// # Panics
    /// If there is none.
    pub fn public(&self) -> SocketAddr {
        let line = self.running().log.wait_for("published ports: ").expect("the daemon said where");
        let (_, address) = line.rsplit_once(' ').expect("an address");
        address.trim().parse().expect("an address")
    }

    /// The daemon's process id.
    pub fn pid(&self) -> i32 {
        self.running().pid()
    }

    fn running(&self) -> &Daemon {
        self.daemon.as_ref().expect("the daemon runs")
    }

    /// A client on the Unix socket without a key, which for root is the admin.
    pub fn admin(&self) -> Client {
        Client::new(Endpoint::Unix(self.socket()), None)
    }

    /// A client on the Unix socket with a key.
    pub fn client(&self, key: &str) -> Client {
        Client::new(Endpoint::Unix(self.socket()), Some(key.to_owned()))
    }

    /// A client over TCP.
    pub fn tcp_client(&self, key: Option<&str>) -> Client {
        let (host, port) = (self.tcp().ip().to_string(), self.tcp().port());
        Client::new(Endpoint::Tcp { host, port }, key.map(str::to_owned))
    }

    /// Adds a user and gives its key.
    pub async fn user(&self, request: CreateUser) -> String {
        let made = self.admin().create_user(&request).await.expect("a user can be made");
        self.remember(&made.api_key);
        made.api_key
    }

    /// Has the sandboxes of this key's user destroyed at the end.
    pub fn remember(&self, key: &str) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).push(key.to_owned());
    }

    /// Runs the program that people use, with this node as this machine's daemon.
    pub fn cli(&self, args: &[&str]) -> Output {
        self.cli_with(args, Stdio::null())
    }

    /// As [`Self::cli`], with something on stdin.
    pub fn cli_with(&self, args: &[&str], stdin: impl Into<Stdio>) -> Output {
        let mut command = self.program(args).stdin(stdin);
        command.as_std_mut().output().expect("the program can be run")
    }

    /// The program that people use, with this node as this machine's daemon, not started yet.
    pub fn program(&self, args: &[&str]) -> Command {
        let command = self.run_as.command(&self.binary, self.data());
        command.env("HOME", self.data()).env("BHATTI_DATA_DIR", self.data()).args(args)
    }

    /// Tries to start another daemon on the same data directory and gives what it said.
    pub fn second_daemon(&self) -> Result<(), String> {
        Daemon::start(&self.binary, self.data(), &[], None, self.run_as).map(Daemon::kill9)
    }

    /// Kills the daemon without warning, if it runs.
    pub fn kill9(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.kill9();
        }
    }

    /// Ends the daemon as a service manager does, if it runs.
    ///
    /// # Panics
    /// If it does not end well.
    pub fn terminate(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            let status = daemon.terminate();
            assert!(status.success(), "the daemon ended with {status}");
        }
    }

    /// Waits until the daemon has ended by itself, and says how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.daemon.take().map(Daemon::ended)
    }

    /// Ends the daemon if it runs, and starts the next one.
    ///
    /// # Panics
    /// If it does not serve.
    pub fn restart(&mut self) {
        self.start_daemon(None)
            .unwrap_or_else(|said| panic!("the daemon does not serve; it said:\n{said}"));
    }

    /// As [`Self::restart`], and from then on the daemon is somebody else's.
    ///
    /// # Panics
    /// As there.
    pub fn restart_as(&mut self, run_as: RunAs) {
        self.terminate();
        self.run_as = run_as;
        self.restart();
    }

    /// As [`Self::restart`], with something that goes wrong from the start, see [`Faults::arm`].
    ///
    /// # Errors
    /// What the daemon said, if it does not serve.
    pub fn restart_armed(&mut self, fault: &str) -> Result<(), String> {
        self.start_daemon(Some(fault))
    }

    fn start_daemon(&mut self, fault: Option<&str>) -> Result<(), String> {
        self.terminate();
        let mut environment = self.faults.as_ref().map_or(Vec::new(), Faults::environment);
        let config = self.data().join("daemon.toml");
        environment.push(("BHATTI_DAEMON_CONFIG", config.into()));
        environment.extend(fault.map(|fault| ("BHATTI_FAULT", fault.into())));
        let low = self.memory_low_mb.map(|mb| ("BHATTI_MEMORY_LOW", mb.to_string().into()));
        environment.extend(low);
        environment.push(("BHATTI_PRESTARTED", self.prestarted.to_string().into()));
        let machine = self.machine.as_ref();
        let daemon = Daemon::start(&self.binary, self.data(), &environment, machine, self.run_as)?;
        self.logs.push(Arc::clone(&daemon.log));
        self.daemon = Some(daemon);
        Ok(())
    }

    /// What can be made to go wrong.
    ///
    /// # Panics
    /// If the node has not the option for that.
    pub fn faults(&self) -> &Faults {
        self.faults.as_ref().expect("the node is one with faults")
    }

    /// What all daemons of this node have said so far.
    pub fn log(&self) -> Vec<String> {
        self.logs.iter().flat_map(|log| log.lines()).collect()
    }

    /// Waits until the daemon that runs says something with `text` in it.
    pub fn said(&self, text: &str) -> bool {
        self.running().log.wait_for(text).is_some()
    }

    /// Whether its daemon keeps monitors ready that are nobody's.
    pub(crate) fn keeps_spares(&self) -> bool {
        self.prestarted > 0
    }

    /// Waits until everything stands ready that is to.
    pub async fn stands_ready(&self) {
        let wanted = u32::try_from(self.prestarted).unwrap_or(0);
        crate::until("everything stands ready", async || {
            let ready = self.admin().health().await.expect("the daemon answers").prestarted;
            (ready.guests == wanted && ready.monitors == wanted).then_some(())
        })
        .await;
    }

    /// Monitors of this node: process id and sandbox id.
    pub fn monitors(&self) -> Vec<(i32, String)> {
        host::monitors(&format!("{}/", self.tag()))
    }

    /// The one monitor of a sandbox.
    ///
    /// # Panics
    /// If there is none, or more than one.
    #[track_caller]
    pub fn monitor(&self, id: &str) -> i32 {
        let of_it: Vec<i32> =
            self.monitors().iter().filter(|(_, of)| of == id).map(|(pid, _)| *pid).collect();
        assert_eq!(of_it.len(), 1, "monitors of {id}: {of_it:?}");
        of_it[0]
    }

    /// Control groups of this node's VMs.
    pub fn groups(&self) -> Vec<PathBuf> {
        host::groups(&format!("{}-", self.tag()))
    }

    /// A warning or error in the log that has `text` in it is part of the test. Any other fails it.
    pub fn expect_warning(&self, text: &'static str) {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    /// By what the node's processes and groups are known.
    fn tag(&self) -> String {
        base::hash::bytes(self.data().as_os_str().as_encoded_bytes())[..8].to_owned()
    }

    fn destroy_all(&self) -> Result<(), String> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let clients = keys.iter().map(|key| self.client(key)).chain([self.admin()]);
        // A thread of its own, because a test's runtime may be around us.
        std::thread::scope(|scope| {
            let clients: Vec<Client> = clients.collect();
            let destroying = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.map_err(|error| error.to_string())?.block_on(destroy_all(clients))
            });
            destroying.join().unwrap_or_else(|_| Err("destroying panicked".to_owned()))
        })
    }

    /// Everything of this node that is still on the host, in words.
    fn left(&self) -> Vec<String> {
        let mut left: Vec<String> =
            self.monitors().iter().map(|(pid, id)| format!("monitor {pid} of {id}")).collect();
        left.extend(self.groups().iter().map(|group| format!("group {}", group.display())));
        for directory in ["run", "sandboxes", "snapshots"] {
            let names = host::names(&self.data().join(directory));
            left.extend(names.iter().map(|name| format!("{directory}/{name}")));
        }
        let templates = host::names(&self.data().join("templates"));
        let half_made = templates.iter().filter(|name| name.starts_with(".tmp-"));
        left.extend(half_made.map(|name| format!("templates/{name}")));
        let machine = self.machine.iter().flat_map(|machine| machine.traces(&self.tag()));
        left.extend(machine);
        left
    }

    fn unexpected_warnings(&self) -> Vec<String> {
        if self.faults.is_some() {
            let panics = |line: &String| line.contains("panicked at");
            return self.log().into_iter().filter(panics).collect();
        }
        let expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        let loud =
            |line: &String| [" WARN ", " ERROR ", "panicked at"].iter().any(|l| line.contains(l));
        let known = |line: &String| expected.iter().any(|text| line.contains(text));
        self.log().into_iter().filter(|line| loud(line) && !known(line)).collect()
    }

    fn finish(&mut self) -> Result<(), String> {
        if self.daemon.is_none() {
            self.restart();
        }
        self.destroy_all()?;
        self.terminate();
        let mut wrong = self.left();
        drop(self.mounted.take());
        let mounts = host::mounts_below(self.data());
        wrong.extend(mounts.iter().map(|mount| format!("mount {}", mount.display())));
        wrong.extend(self.unexpected_warnings().iter().map(|line| format!("in the log: {line}")));
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }

    /// After a failure: shows what happened and leaves nothing running.
    #[expect(clippy::print_stderr, reason = "it is what explains the failed test")]
    fn explain_and_clean(&mut self) {
        for line in self.log() {
            eprintln!("daemon: {line}");
        }
        if let Some(daemon) = self.daemon.take() {
            daemon.kill9();
        }
        for (pid, _) in self.monitors() {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        // A group can be removed once init has reaped its processes, which nobody is told of.
        for _ in 0..500 {
            let groups = self.groups();
            if groups.iter().filter(|group| fs_err::remove_dir(group).is_err()).count() == 0 {
                break;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(10));
        }
        drop(self.mounted.take());
    }
}

/// Has what a daemon keeps of sandboxes in a file system of its own. Links lead there, because two
/// mounts could not share files.
fn small_file_system(data: &Path, bytes: u64) -> std::io::Result<Tmpfs> {
    let at = data.join("small");
    fs_err::create_dir(&at)?;
    let mounted = Tmpfs::on(&at, bytes);
    for name in ["sandboxes", "snapshots"] {
        fs_err::create_dir(at.join(name))?;
        fs_err::os::unix::fs::symlink(at.join(name), data.join(name))?;
    }
    Ok(mounted)
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return self.explain_and_clean();
        }
        if let Err(wrong) = self.finish() {
            self.explain_and_clean();
            panic!("at the end of the node:\n{wrong}");
        }
    }
}

async fn destroy_all(clients: Vec<Client>) -> Result<(), String> {
    for mut client in clients {
        // A user whose key was changed or who was deleted by the test has nothing left here.
        let Ok(sandboxes) = client.sandboxes(&[]).await else { continue };
        for sandbox in sandboxes {
            let destroyed = client.destroy(&sandbox.id).await;
            destroyed.map_err(|error| format!("destroy {}: {error}", sandbox.name))?;
        }
        for snapshot in client.snapshots().await.map_err(|error| error.to_string())? {
            let deleted = client.delete_snapshot(&snapshot.id).await;
            deleted.map_err(|error| format!("delete {}: {error}", snapshot.name))?;
        }
    }
    Ok(())
}

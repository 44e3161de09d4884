//! Network namespaces that stand for the daemon's host and for the machines around it.
//!
//! They have no names: one is there while a descriptor, a process or a socket is in it, so nothing
//! has to be removed, however a test ends.

use std::{
    net::SocketAddr,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    sync::Arc,
    time::Duration,
};

use base::process::Command;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// How long to wait for what may not come.
const SILENCE: Duration = Duration::from_secs(2);

/// A machine with nothing but a network.
#[derive(Debug, Clone)]
pub struct Machine(Arc<OwnedFd>);

impl Machine {
    /// One that is connected to nothing.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn new() -> Self {
        let made = std::thread::spawn(|| {
            #[expect(deprecated, reason = "only the network of this thread changes")]
            rustix::thread::unshare(UnshareFlags::NEWNET).expect("root can make a namespace");
            let own = fs_err::File::open("/proc/thread-self/ns/net");
            own.expect("a namespace can be opened").into_parts().0.into()
        });
        let machine = Self(Arc::new(made.join().expect("a namespace can be made")));
        machine.ip("link set lo up");
        machine
    }

    /// A namespace that a process holds open without being in it: that of the sandboxes, which
    /// each monitor holds.
    ///
    /// # Panics
    /// If it holds none.
    pub fn held_by(pid: i32) -> Self {
        let entries = fs_err::read_dir(format!("/proc/{pid}/fd")).expect("the process is there");
        let mut entries = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let is_it = |path: &std::path::PathBuf| {
            let target = fs_err::read_link(path).unwrap_or_default();
            target.to_string_lossy().starts_with("net:[")
        };
        let held = entries.find(is_it).expect("the process holds a namespace");
        let file = fs_err::File::open(held).expect("a namespace can be opened");
        Self(Arc::new(file.into_parts().0.into()))
    }

    /// Does something there. Sockets that are made so stay there.
    ///
    /// # Panics
    /// As `work` does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("a namespace can be entered");
            work()
        };
        let done = std::thread::scope(|scope| scope.spawn(inside).join());
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs `ip` there.
    ///
    /// # Panics
    /// If it fails.
    pub fn ip(&self, words: &str) -> String {
        self.tool("ip", words)
    }

    /// Runs `nft` there.
    ///
    /// # Panics
    /// If it fails.
    pub fn nft(&self, words: &str) -> String {
        self.tool("nft", words)
    }

    fn tool(&self, program: &str, words: &str) -> String {
        let output = self.run(|| Command::new(program).args(words.split(' ')).output());
        let output =
            output.unwrap_or_else(|error| panic!("{program} {words}: {}", base::chain(&error)));
        String::from_utf8_lossy(&output).into_owned()
    }

    /// Lays a cable to another machine. Each end has a name and an address with its prefix; the
    /// other end has its way to everywhere by this one.
    ///
    /// # Panics
    /// If it cannot be laid.
    pub fn join(&self, (name, address): (&str, &str), other: &Self, far: (&str, &str)) {
        let there = format!("/proc/{}/fd/{}", std::process::id(), other.0.as_raw_fd());
        self.ip(&format!("link add {name} type veth peer name {} netns {there}", far.0));
        for (machine, name, address) in [(self, name, address), (other, far.0, far.1)] {
            machine.ip(&format!("addr add {address} dev {name}"));
            machine.ip(&format!("link set {name} up"));
        }
        let (gateway, _) = address.split_once('/').expect("an address has a prefix");
        other.ip(&format!("route add default via {gateway}"));
    }

    /// Listens there.
    ///
    /// # Panics
    /// If it cannot, or outside of a runtime.
    pub fn listen(&self, address: &str) -> tokio::net::TcpListener {
        let listener = self.run(|| std::net::TcpListener::bind(address));
        let listener = listener.unwrap_or_else(|error| panic!("listen on {address}: {error}"));
        listener.set_nonblocking(true).expect("a socket can be set");
        tokio::net::TcpListener::from_std(listener).expect("a runtime is there")
    }

    /// A datagram socket there.
    ///
    /// # Panics
    /// If it cannot be had, or outside of a runtime.
    pub fn datagrams(&self, address: &str) -> tokio::net::UdpSocket {
        let socket = self.run(|| std::net::UdpSocket::bind(address));
        let socket = socket.unwrap_or_else(|error| panic!("bind {address}: {error}"));
        socket.set_nonblocking(true).expect("a socket can be set");
        tokio::net::UdpSocket::from_std(socket).expect("a runtime is there")
    }

    /// Whether somebody accepts connections at an address, seen from there.
    pub fn reaches(&self, address: SocketAddr) -> bool {
        self.run(|| std::net::TcpStream::connect_timeout(&address, SILENCE)).is_ok()
    }

    /// Names of its interfaces.
    ///
    /// # Panics
    /// If they cannot be read.
    pub fn interfaces(&self) -> Vec<String> {
        let table = self.run(|| fs_err::read_to_string("/proc/thread-self/net/dev"));
        let table = table.expect("interfaces can be read");
        let names = table.lines().filter_map(|line| line.split_once(':'));
        names.map(|(name, _)| name.trim().to_owned()).collect()
    }

    /// What there is of a daemon with this tag, in words.
    pub(crate) fn traces(&self, tag: &str) -> Vec<String> {
        let links = self.interfaces().into_iter().filter(|name| name.ends_with(tag));
        let links = links.map(|name| format!("interface {name}"));
        let rules = self.nft("list ruleset");
        let rules = rules.lines().filter(|line| line.contains(tag));
        links.chain(rules.map(|line| format!("rule {}", line.trim()))).collect()
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

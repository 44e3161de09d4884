//! Becoming one particular sandbox, and waking up as the same one.
//!
//! Children of one template are equal to the last bit, random state included. Each part of the new
//! identity is therefore put in place and looked at again; one that does not hold fails the whole.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use proto::message::{ErrorCode, Identify, Refresh, WireError};
use rustix::fs::{Mode, OFlags, open};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::agent::{Agent, Identity, refuse};
use crate::sys;

/// How far the clock may be from what was set, when looked at again.
const CLOCK_TOLERANCE_NS: u64 = 1_000_000_000;

/// The address under which a machine knows itself, as Debian has it.
const OWN_ADDRESS: &str = "127.0.1.1";

/// Longest host name that the kernel takes.
const HOSTNAME_MAX: usize = 64;

/// The parts of an identity that live in the kernel.
pub(crate) trait Kernel: Send + Sync {
    /// Sets the host name.
    fn set_hostname(&self, name: &str) -> io::Result<()>;
    /// The host name.
    fn hostname(&self) -> String;
    /// Credits random bytes and has the generator start over from them.
    fn reseed(&self, seed: &[u8; 32]) -> io::Result<()>;
    /// Sets the wall clock, nanoseconds since the Unix epoch.
    fn set_clock(&self, time_ns: u64) -> io::Result<()>;
    /// The wall clock.
    fn clock(&self) -> u64;
}

/// The kernel that runs this agent.
#[derive(Debug)]
pub(crate) struct Linux {
    random: OwnedFd,
}

impl Linux {
    /// # Errors
    /// The random generator cannot be opened.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { random: open("/dev/urandom", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())? })
    }
}

impl Kernel for Linux {
    fn set_hostname(&self, name: &str) -> io::Result<()> {
        rustix::system::sethostname(name.as_bytes()).map_err(Into::into)
    }

    fn hostname(&self) -> String {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    }

    fn reseed(&self, seed: &[u8; 32]) -> io::Result<()> {
        sys::add_entropy(&self.random, seed)?;
        sys::reseed(&self.random)
    }

    fn set_clock(&self, time_ns: u64) -> io::Result<()> {
        let tv_sec = i64::try_from(time_ns / 1_000_000_000).map_err(io::Error::other)?;
        let tv_nsec = i64::try_from(time_ns % 1_000_000_000).map_err(io::Error::other)?;
        clock_settime(ClockId::Realtime, Timespec { tv_sec, tv_nsec }).map_err(Into::into)
    }

    fn clock(&self) -> u64 {
        let now = clock_gettime(ClockId::Realtime);
        let (seconds, nanos) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
        seconds.unwrap_or(0).saturating_mul(1_000_000_000) + nanos.unwrap_or(0)
    }
}

/// Makes a blank agent the sandbox that the host says.
///
/// # Errors
/// The message names the part that does not hold; then the agent stays blank.
pub(crate) fn identify(agent: &Agent, wanted: &Identify) -> Result<(), WireError> {
    if agent.identity().is_some() {
        return Err(refuse(ErrorCode::Invalid, "this guest already has an identity"));
    }
    check(wanted)?;
    let token = hex::decode(&wanted.token)
        .ok()
        .filter(|token| !token.is_empty())
        .ok_or_else(|| refuse(ErrorCode::Invalid, "token: not hexadecimal"))?;
    refresh(agent, &wanted.refresh)?;
    let name = &wanted.hostname;
    let confirmed = agent.kernel.set_hostname(name).map(|()| agent.kernel.hostname() == *name);
    confirm("hostname", confirmed)?;
    let files = &agent.identity_files;
    confirm("/etc/hostname", put(&files.hostname, &format!("{name}\n")))?;
    confirm("/etc/hosts", put(&files.hosts, &name_in_hosts(&files.known_hosts, name)))?;
    let machine_id = format!("{}\n", wanted.machine_id);
    confirm("/etc/machine-id", put(&files.machine_id, &machine_id))?;
    if let Some(dbus) = &files.dbus_machine_id {
        confirm("/var/lib/dbus/machine-id", put(dbus, &machine_id))?;
    }
    agent.set_identity(Identity {
        sandbox_id: wanted.sandbox_id.clone(),
        token,
        env: wanted.env.clone(),
    });
    Ok(())
}

/// Brings clock and randomness up to date.
///
/// # Errors
/// The message names the part that does not hold.
pub(crate) fn refresh(agent: &Agent, wanted: &Refresh) -> Result<(), WireError> {
    let mut seed = [0; 32];
    hex::decode_to_slice(&wanted.seed, &mut seed)
        .map_err(|_| refuse(ErrorCode::Invalid, "seed: not 32 bytes in hexadecimal"))?;
    confirm("entropy", agent.kernel.reseed(&seed).map(|()| true))?;
    let set = agent.kernel.set_clock(wanted.time_ns);
    let holds = || agent.kernel.clock().abs_diff(wanted.time_ns) < CLOCK_TOLERANCE_NS;
    confirm("clock", set.map(|()| holds()))
}

fn check(wanted: &Identify) -> Result<(), WireError> {
    let name = wanted.hostname.as_bytes();
    let named = (1..=HOSTNAME_MAX).contains(&name.len())
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(byte));
    if !named {
        return Err(refuse(ErrorCode::Invalid, "hostname: not a host name"));
    }
    let id = wanted.machine_id.as_bytes();
    if id.len() != 32 || !id.iter().all(u8::is_ascii_hexdigit) {
        return Err(refuse(ErrorCode::Invalid, "machine-id: not 32 hexadecimal digits"));
    }
    Ok(())
}

fn confirm(part: &str, result: io::Result<bool>) -> Result<(), WireError> {
    match result {
        Ok(true) => Ok(()),
        Ok(false) => Err(refuse(ErrorCode::Failed, format!("{part}: does not hold"))),
        Err(error) => Err(refuse(ErrorCode::Failed, format!("{part}: {error}"))),
    }
}

/// Replaces the content of a small file in place and reads it back.
fn put(file: &OpenFile, content: &str) -> io::Result<bool> {
    let OpenFile { file, length } = file;
    if *length > content.len() as u64 {
        file.set_len(0)?;
    }
    file.write_all_at(content.as_bytes(), 0)?;
    let mut found = vec![0; content.len()];
    file.read_exact_at(&mut found, 0)?;
    Ok(found == content.as_bytes())
}

/// The files that say who this machine is, open since before the template was recorded: a child
/// that has just been restored runs everything for the first time, and under emulation looking up
/// and opening files would take it longer than all the rest.
#[derive(Debug)]
pub(crate) struct IdentityFiles {
    hostname: OpenFile,
    hosts: OpenFile,
    machine_id: OpenFile,
    dbus_machine_id: Option<OpenFile>,
    /// What `/etc/hosts` says of other machines.
    known_hosts: String,
}

/// A file and how long it was when it was opened; an identity is given once.
#[derive(Debug)]
struct OpenFile {
    file: File,
    length: u64,
}

impl OpenFile {
    fn new(path: &Path) -> io::Result<Self> {
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Self { length: file.metadata()?.len(), file })
    }
}

impl IdentityFiles {
    /// Opens the files below `root`; one that is missing is made.
    ///
    /// # Errors
    /// One of them cannot be opened.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let etc = root.join("etc");
        fs::create_dir_all(&etc)?;
        let dbus = root.join("var/lib/dbus/machine-id");
        // A link leads to the file in `/etc`, as most distributions have it.
        let dbus_is_file = fs::symlink_metadata(&dbus).is_ok_and(|meta| meta.is_file());
        Ok(Self {
            hostname: OpenFile::new(&etc.join("hostname"))?,
            hosts: OpenFile::new(&etc.join("hosts"))?,
            machine_id: OpenFile::new(&etc.join("machine-id"))?,
            dbus_machine_id: dbus_is_file.then(|| OpenFile::new(&dbus)).transpose()?,
            known_hosts: fs::read_to_string(etc.join("hosts")).unwrap_or_default(),
        })
    }
}

/// The text of a hosts file in which `name` is this machine.
pub(crate) fn name_in_hosts(hosts: &str, name: &str) -> String {
    let mut text = nameless_hosts(hosts);
    text.push_str(&format!("{OWN_ADDRESS} {name}\n"));
    text
}

/// The text of a hosts file that does not say who this machine is.
pub(crate) fn nameless_hosts(hosts: &str) -> String {
    let mut text = String::new();
    let mut has_localhost = false;
    for line in hosts.lines().filter(|line| line.split_whitespace().next() != Some(OWN_ADDRESS)) {
        has_localhost |= line.split_whitespace().next() == Some("127.0.0.1");
        text.push_str(line);
        text.push('\n');
    }
    if !has_localhost {
        text.push_str("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_file_names_this_machine_once() {
        let first = name_in_hosts("", "one");
        assert!(first.contains("127.0.0.1 localhost\n") && first.ends_with("127.0.1.1 one\n"));
        let second = name_in_hosts("127.0.0.1 localhost\n127.0.1.1 one\n10.0.0.1 db\n", "two");
        assert_eq!(second, "127.0.0.1 localhost\n10.0.0.1 db\n127.0.1.1 two\n");
    }
}

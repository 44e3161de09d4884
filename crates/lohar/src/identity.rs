//! Becoming one particular sandbox, and waking up as the same one.
//!
//! Children of one template are equal to the last bit, random state included, and so is a copy of
//! a running sandbox to that sandbox. Each part of the new identity is therefore put in place and
//! looked at again; one that does not hold fails the whole.

mod files;

use std::io;
use std::os::fd::OwnedFd;

use proto::message::{ErrorCode, Identify, Interface, Refresh, WireError};
use rustix::fs::{Mode, OFlags, open};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

pub(crate) use self::files::{Generation, IdentityFiles, nameless_hosts};
use self::files::{content, name_in_hosts, put};
use crate::agent::{Agent, Identity, refuse};
use crate::interface::Network;
use crate::sys;

/// How far the clock may be from what was set, when looked at again.
const CLOCK_TOLERANCE_NS: u64 = 1_000_000_000;

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
    /// Gives the network interface its addresses; whether they then are as wanted.
    fn set_interface(&self, wanted: &Interface) -> io::Result<bool>;
    /// Takes the network interface's address and the routes by it away.
    fn clear_interface(&self) -> io::Result<()>;
}

/// The kernel that runs this agent.
#[derive(Debug)]
pub(crate) struct Linux {
    random: OwnedFd,
    network: Network,
}

impl Linux {
    /// # Errors
    /// The random generator cannot be opened, or there is no network.
    pub(crate) fn new() -> io::Result<Self> {
        let random = open("/dev/urandom", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { random, network: Network::new()? })
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

    fn set_interface(&self, wanted: &Interface) -> io::Result<bool> {
        self.network.configure(wanted)
    }

    fn clear_interface(&self) -> io::Result<()> {
        self.network.clear()
    }
}

/// Makes the guest the sandbox that the host says. One that was another, because its memory is a
/// copy of that, is it no longer.
///
/// # Errors
/// The message names the part that does not hold; then the agent is still who it was, but what was
/// put in place before may stay, so that the guest is of no more use to anybody.
pub(crate) fn identify(agent: &Agent, wanted: &Identify) -> Result<(), WireError> {
    let token = put_in_place(agent, wanted)?;
    agent.set_identity(Identity {
        sandbox_id: wanted.sandbox_id.clone(),
        token,
        env: wanted.env.clone(),
        defaults: wanted.defaults.clone(),
    });
    Ok(())
}

/// Does the same and becomes nobody, so that it is done faster when it counts: all code that it takes
/// is in memory and, where the guest is emulated, translated. An identity replaces all of it but what is
/// said of the network, which some have none of and which is therefore taken back.
///
/// # Errors
/// As for [`identify`]; and if the guest is somebody.
pub(crate) fn rehearse(agent: &Agent, wanted: &Identify) -> Result<(), WireError> {
    if agent.identity().is_some() {
        return Err(refuse(ErrorCode::Invalid, "the guest is somebody already"));
    }
    if wanted.interface.is_none() {
        return put_in_place(agent, wanted).map(drop);
    }
    let resolv_conf = &agent.identity_files.resolv_conf;
    let before = content(resolv_conf);
    let before = before.map_err(|error| refuse(ErrorCode::Failed, error.to_string()))?;
    put_in_place(agent, wanted)?;
    confirm("/etc/resolv.conf", put(resolv_conf, &before))?;
    confirm("interface", agent.kernel.clear_interface().map(|()| true))
}

/// Everything that others than the agent see of an identity; returns the token.
fn put_in_place(agent: &Agent, wanted: &Identify) -> Result<Vec<u8>, WireError> {
    check(wanted)?;
    let token = hex::decode(&wanted.token)
        .ok()
        .filter(|token| !token.is_empty())
        .ok_or_else(|| refuse(ErrorCode::Invalid, "token: not hexadecimal"))?;
    bring_up_to_date(agent, &wanted.refresh)?;
    let name = &wanted.hostname;
    let confirmed = agent.kernel.set_hostname(name).map(|()| agent.kernel.hostname() == *name);
    confirm("hostname", confirmed)?;
    if let Some(interface) = &wanted.interface {
        confirm("interface", agent.kernel.set_interface(interface))?;
    }
    if agent.identity().is_none() {
        write_files(&agent.identity_files, wanted)?;
    } else {
        // Somebody has lived here: the files may be others by now, and say more.
        let failed = |error: io::Error| refuse(ErrorCode::Failed, error.to_string());
        write_files(&IdentityFiles::open(&agent.root).map_err(failed)?, wanted)?;
    }
    confirm("journal", agent.services.rename(&wanted.machine_id).map(|()| true))?;
    confirm("generation", agent.generation.renew())?;
    Ok(token)
}

fn write_files(files: &IdentityFiles, wanted: &Identify) -> Result<(), WireError> {
    let name = &wanted.hostname;
    confirm("/etc/hostname", put(&files.hostname, &format!("{name}\n")))?;
    confirm("/etc/hosts", put(&files.hosts, &name_in_hosts(&files.known_hosts, name)))?;
    let machine_id = format!("{}\n", wanted.machine_id);
    confirm("/etc/machine-id", put(&files.machine_id, &machine_id))?;
    if let Some(Interface { name_server, .. }) = &wanted.interface {
        let line = format!("nameserver {name_server}\n");
        confirm("/etc/resolv.conf", put(&files.resolv_conf, &line))?;
    }
    if let Some(dbus) = &files.dbus_machine_id {
        confirm("/var/lib/dbus/machine-id", put(dbus, &machine_id))?;
    }
    Ok(())
}

/// Brings a guest that slept up to date, and tells its programs that it did.
///
/// # Errors
/// The message names the part that does not hold.
pub(crate) fn refresh(agent: &Agent, wanted: &Refresh) -> Result<(), WireError> {
    bring_up_to_date(agent, wanted)?;
    confirm("generation", agent.generation.renew())
}

/// Randomness and clock.
fn bring_up_to_date(agent: &Agent, wanted: &Refresh) -> Result<(), WireError> {
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

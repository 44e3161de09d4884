//! What systemd finds when it starts: its part of the control groups, and settings in memory that
//! keep it from what is not its own. Whatever the image's owner says in `/etc` comes before those
//! that are drop-ins.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram as Socket;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::rand::{GetRandomFlags, getrandom};

/// The control group that systemd believes to be all.
pub(super) const CGROUP: &str = "/sys/fs/cgroup/services";

/// The one for commands, in it. systemd leaves those alone that it has not made.
pub(super) const JOINERS: &str = "/sys/fs/cgroup/services/commands";

const MESSAGES: &str = "/run/bhatti/services";

/// What systemd's environment is, and through it that of all services.
pub(super) const ENVIRONMENT: [&str; 4] = [
    "container=bhatti",
    "NOTIFY_SOCKET=/run/bhatti/services",
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG=C.UTF-8",
];

/// Where the journal in memory is; it is found by the machine's id.
const JOURNAL: &str = "/run/log/journal";

const MACHINE_ID: &str = "/etc/machine-id";

/// Units that are not to run, whoever wants them: what they would look after is the agent's or the
/// host's.
const MASKED: [&str; 24] = [
    // Devices are there before systemd is, and do not change.
    "systemd-udevd.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udev-trigger.service",
    "systemd-udev-settle.service",
    "systemd-tmpfiles-setup-dev.service",
    "kmod-static-nodes.service",
    // Addresses, routes and names come from the host.
    "systemd-networkd.service",
    "systemd-networkd.socket",
    "systemd-networkd-wait-online.service",
    "systemd-resolved.service",
    "networking.service",
    "NetworkManager.service",
    // So do the clock, randomness and the machine's id.
    "systemd-timesyncd.service",
    "systemd-random-seed.service",
    "systemd-machine-id-commit.service",
    "systemd-firstboot.service",
    // Nobody is at the console.
    "console-getty.service",
    "getty@.service",
    "serial-getty@.service",
    "getty-static.service",
    // What is mounted is as it is to be.
    "systemd-remount-fs.service",
    "tmp.mount",
    // Written at each boot and never read here.
    "systemd-update-utmp.service",
];

/// Path and content. The journal stays in memory, which is kept when the sandbox is stopped.
const SETTINGS: [(&str, &str); 2] = [
    (
        "/run/systemd/journald.conf.d/10-bhatti.conf",
        "[Journal]\nStorage=volatile\nRuntimeMaxUse=16M\nReadKMsg=no\nForwardToSyslog=no\nAudit=no\n",
    ),
    ("/run/systemd/system.conf.d/10-bhatti.conf", "[Manager]\nDefaultTimeoutStopSec=20s\n"),
];

/// Rules by which systemd cleans up when it starts: `/tmp` is not emptied.
const RULES: [&str; 1] = ["/run/tmpfiles.d/tmp.conf"];

/// Makes everything; what systemd says of itself is read from what is returned.
pub(super) fn set_up() -> io::Result<Socket> {
    for path in [CGROUP, JOINERS] {
        fs::create_dir_all(path).map_err(|error| named(path, &error))?;
    }
    for unit in MASKED {
        link_to_nothing(&Path::new("/run/systemd/system").join(unit))?;
    }
    for rules in RULES {
        link_to_nothing(Path::new(rules))?;
    }
    for (path, content) in SETTINGS {
        let path = Path::new(path);
        fs::create_dir_all(path.parent().unwrap_or(path))?;
        fs::write(path, content)?;
    }
    let id = machine_id()?;
    name_journal(&id)?;
    // Whatever is mounted on one side is to be seen on the other.
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    mount_change("/", shared).map_err(|errno| named("/", &errno.into()))?;
    super::listen(MESSAGES).map_err(|error| named(MESSAGES, &error))
}

/// The machine's id; one at random as long as nobody has given it one, because a machine without
/// one is believed to be started for the first time ever.
fn machine_id() -> io::Result<String> {
    let id = fs::read_to_string(MACHINE_ID)?.trim().to_owned();
    if !id.is_empty() {
        return Ok(id);
    }
    let mut random = [0; 16];
    getrandom(&mut random, GetRandomFlags::INSECURE)?;
    let id = hex::encode(random);
    fs::write(MACHINE_ID, format!("{id}\n"))?;
    Ok(id)
}

/// Has all services stand still, or go on.
pub(super) fn freeze(still: bool) -> io::Result<()> {
    for entry in fs::read_dir(CGROUP)? {
        let path = entry?.path();
        if path.is_dir() && path != Path::new(JOINERS) {
            fs::write(path.join("cgroup.freeze"), if still { "1" } else { "0" })?;
        }
    }
    Ok(())
}

/// Lets the journal be found by `id`. The process that writes it keeps the directory that it has.
pub(super) fn name_journal(id: &str) -> io::Result<()> {
    let directory = Path::new(JOURNAL);
    fs::create_dir_all(directory)?;
    let mut kept: Option<PathBuf> = None;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_symlink() {
            fs::remove_file(&path)?;
        } else {
            kept = Some(path);
        }
    }
    let name = directory.join(id);
    match kept {
        Some(kept) if kept != name => symlink(kept.file_name().unwrap_or_default(), name),
        Some(_) => Ok(()),
        None => fs::create_dir(name),
    }
}

fn link_to_nothing(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    match symlink("/dev/null", path) {
        Err(error) if Errno::from_io_error(&error) != Some(Errno::EXIST) => {
            Err(named(&path.to_string_lossy(), &error))
        }
        _ => Ok(()),
    }
}

fn named(path: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{path}: {error}"))
}

//! The files that say who this machine is, and the one that says when it became so.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::rand::{GetRandomFlags, getrandom};

/// The address under which a machine knows itself, as Debian has it.
const OWN_ADDRESS: &str = "127.0.1.1";

/// Where D-Bus has a machine id of its own, if it has.
const DBUS: &str = "var/lib/dbus/machine-id";

/// Below the guest's root; changes whenever the guest was restored or copied.
const GENERATION: &str = "run/bhatti/generation";

/// Replaces the content of a small file in place; whether it then reads as `content` and no more.
pub(super) fn put(file: &File, content: &str) -> io::Result<bool> {
    file.write_all_at(content.as_bytes(), 0)?;
    let mut found = vec![0; content.len() + 1];
    let mut count = file.read_at(&mut found, 0)?;
    if count > content.len() {
        // What was there before was longer.
        file.set_len(content.len() as u64)?;
        count = file.read_at(&mut found, 0)?;
    }
    Ok(&found[..count] == content.as_bytes())
}

/// The content of a small text file.
pub(super) fn content(file: &File) -> io::Result<String> {
    let mut text = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(0)];
    file.read_exact_at(&mut text, 0)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The files that say who this machine is, open since before the template was recorded: a child
/// that has just been restored runs everything for the first time, and under emulation looking up
/// and opening files would take it longer than all the rest.
#[derive(Debug)]
pub(crate) struct IdentityFiles {
    pub(super) hostname: File,
    pub(super) hosts: File,
    pub(super) machine_id: File,
    pub(super) resolv_conf: File,
    pub(super) dbus_machine_id: Option<File>,
    /// What `/etc/hosts` said when it was opened.
    pub(super) known_hosts: String,
}

impl IdentityFiles {
    /// Opens the files below `root`; one that is missing is made.
    ///
    /// # Errors
    /// One of them cannot be opened; the message names it.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root.join("etc"))?;
        let open = |name: &str| {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false);
            options.open(root.join(name)).map_err(|error| named(name, &error))
        };
        // A link leads to the file in `/etc`, as most distributions have it.
        let dbus = fs::symlink_metadata(root.join(DBUS)).is_ok_and(|meta| meta.is_file());
        let hosts = open("etc/hosts")?;
        let known_hosts =
            fs::read(root.join("etc/hosts")).map_err(|error| named("etc/hosts", &error))?;
        Ok(Self {
            hostname: open("etc/hostname")?,
            hosts,
            machine_id: open("etc/machine-id")?,
            resolv_conf: open("etc/resolv.conf")?,
            dbus_machine_id: dbus.then(|| open(DBUS)).transpose()?,
            known_hosts: String::from_utf8_lossy(&known_hosts).into_owned(),
        })
    }
}

fn named(name: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("/{name}: {error}"))
}

/// A file by which programs notice that the guest was restored or copied: random digits that are
/// then replaced in place. Open from the beginning for the same reason as [`IdentityFiles`].
#[derive(Debug)]
pub(crate) struct Generation {
    file: File,
}

impl Generation {
    /// Makes the file below `root` anew.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn begin(root: &Path) -> io::Result<Self> {
        let path = root.join(GENERATION);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).mode(0o444).open(&path)?;
        file.set_permissions(fs::Permissions::from_mode(0o444))?;
        // As long as it will be: it never changes its size under those who have it mapped.
        put(&file, &digits([0; 16]))?;
        Ok(Self { file })
    }

    /// Replaces the digits; whether they read back.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn renew(&self) -> io::Result<bool> {
        let mut random = [0; 16];
        getrandom(&mut random, GetRandomFlags::empty())?;
        put(&self.file, &digits(random))
    }
}

fn digits(random: [u8; 16]) -> String {
    let mut line = hex::encode(random);
    line.push('\n');
    line
}

/// The text of a hosts file in which `name` is this machine.
pub(super) fn name_in_hosts(hosts: &str, name: &str) -> String {
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

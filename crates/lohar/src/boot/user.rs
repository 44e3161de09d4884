//! The user that commands run as, in an image that may not know it.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use super::{BootError, Doing};
use crate::users::{DEFAULT_NAME, DEFAULT_UID, Entry, parse_group, parse_passwd};

const WORKSPACE: &str = "/workspace";

/// Makes the user if nobody has its id, its home and the workspace, and lets it become root.
pub(super) fn set_up() -> Result<(), BootError> {
    let passwd = text("/etc/passwd")?;
    let group = text("/etc/group")?;
    let shell = if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" };
    let (user, lines) = account(&passwd, &group, shell);
    if let Some(lines) = lines {
        append("/etc/passwd", &passwd, &lines.passwd)?;
        if let Some(line) = &lines.group {
            append("/etc/group", &group, line)?;
        }
        let shadow = Path::new("/etc/shadow");
        if shadow.exists() {
            append("/etc/shadow", &text("/etc/shadow")?, &lines.shadow)?;
        }
    }
    own_directory(&user.home, &user)?;
    own_directory(WORKSPACE, &user)?;
    allow_sudo(&user.name)
}

/// What is to be added to the account files.
#[derive(Debug, PartialEq, Eq)]
struct Lines {
    passwd: String,
    group: Option<String>,
    shadow: String,
}

/// The user with the default id, and what must be added if there is none.
fn account(passwd: &str, group: &str, shell: &str) -> (Entry, Option<Lines>) {
    let entries = parse_passwd(passwd);
    if let Some(user) = entries.iter().find(|entry| entry.uid == DEFAULT_UID) {
        return (user.clone(), None);
    }
    // A name that is taken by another id would make two users one.
    let taken = |name: &str| {
        entries.iter().any(|entry| entry.name == name)
            || parse_group(group).iter().any(|(other, gid, _)| other == name && *gid != DEFAULT_UID)
    };
    let mut name = DEFAULT_NAME.to_owned();
    while taken(&name) {
        name.push('1');
    }
    let has_group = parse_group(group).iter().any(|(_, gid, _)| *gid == DEFAULT_UID);
    let home = format!("/home/{name}");
    let lines = Lines {
        passwd: format!("{name}:x:{DEFAULT_UID}:{DEFAULT_UID}::{home}:{shell}"),
        group: (!has_group).then(|| format!("{name}:x:{DEFAULT_UID}:")),
        shadow: format!("{name}:*:19000:0:99999:7:::"),
    };
    let (uid, gid, shell) = (DEFAULT_UID, DEFAULT_UID, shell.to_owned());
    (Entry { name, uid, gid, home, shell }, Some(lines))
}

fn text(path: &str) -> Result<String, BootError> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        error => error.doing(|| format!("read {path}")).map(|_| String::new()),
    }
}

fn append(path: &str, before: &str, line: &str) -> Result<(), BootError> {
    let gap = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    super::root::make_directory("/etc")?;
    let mut options = fs::OpenOptions::new();
    let mut file = options.append(true).create(true).open(path).doing(|| format!("open {path}"))?;
    io::Write::write_all(&mut file, format!("{gap}{line}\n").as_bytes())
        .doing(|| format!("write {path}"))
}

/// Makes a directory that belongs to the user; one that is there is left as it is.
fn own_directory(path: &str, user: &Entry) -> Result<(), BootError> {
    if Path::new(path).exists() {
        return Ok(());
    }
    super::root::make_directory(path)?;
    chown(path, Some(user.uid), Some(user.gid)).doing(|| format!("change the owner of {path}"))
}

/// Lets the user become root without a password, where there is a way to.
fn allow_sudo(name: &str) -> Result<(), BootError> {
    const DIRECTORY: &str = "/etc/sudoers.d";
    if !Path::new("/usr/bin/sudo").exists() || !Path::new(DIRECTORY).is_dir() {
        return Ok(());
    }
    let path = format!("{DIRECTORY}/90-bhatti");
    fs::write(&path, format!("{name} ALL=(ALL) NOPASSWD:ALL\n"))
        .doing(|| format!("write {path}"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o440))
        .doing(|| format!("set permissions of {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_has_the_id_keeps_its_user() {
        let passwd = "root:x:0:0::/root:/bin/sh\nubuntu:x:1000:1000::/home/ubuntu:/bin/bash\n";
        let (user, lines) = account(passwd, "", "/bin/sh");
        assert_eq!((user.name.as_str(), lines), ("ubuntu", None));
    }

    #[test]
    fn a_missing_user_is_added_with_its_group() {
        let (user, lines) = account("root:x:0:0::/root:/bin/sh", "root:x:0:\n", "/bin/sh");
        let lines = lines.unwrap();
        assert_eq!(lines.passwd, "lohar:x:1000:1000::/home/lohar:/bin/sh");
        assert_eq!(lines.group.as_deref(), Some("lohar:x:1000:"));
        assert_eq!(parse_passwd(&lines.passwd), [user]);
    }

    #[test]
    fn a_name_that_another_id_has_is_not_used_twice() {
        let (user, lines) = account("lohar:x:7:7::/:/bin/sh\n", "users:x:1000:\n", "/bin/sh");
        assert_eq!((user.name.as_str(), user.home.as_str()), ("lohar1", "/home/lohar1"));
        assert_eq!(lines.unwrap().group, None);
    }
}

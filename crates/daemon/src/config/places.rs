//! Where things are if nobody says otherwise: for root the system's directories, for everybody else
//! their own.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

/// The system's data directory.
pub const SYSTEM_DATA_DIR: &str = "/var/lib/bhatti";
const SYSTEM_FILE: &str = "/etc/bhatti/config.toml";

/// Where a daemon of this process's user keeps its data: `/var/lib/bhatti`, or for an ordinary user
/// `bhatti` in `$XDG_DATA_HOME` or `~/.local/share`.
pub fn data_dir() -> PathBuf {
    let own = || own(|name| env::var_os(name), env::home_dir(), "XDG_DATA_HOME", ".local/share");
    let own = if is_root() { None } else { own() };
    own.unwrap_or_else(|| SYSTEM_DATA_DIR.into())
}

/// The daemon's configuration file, which need not exist: that in `/etc`, or for an ordinary user the
/// one in `bhatti` in `$XDG_CONFIG_HOME` or `~/.config`.
pub(super) fn file() -> PathBuf {
    let own = || own(|name| env::var_os(name), env::home_dir(), "XDG_CONFIG_HOME", ".config");
    let own = if is_root() { None } else { own().map(|directory| directory.join("config.toml")) };
    own.unwrap_or_else(|| SYSTEM_FILE.into())
}

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A user's own directory; what the variable says counts only if it is absolute.
fn own(
    variable: impl Fn(&str) -> Option<OsString>,
    home: Option<PathBuf>,
    name: &str,
    below_home: &str,
) -> Option<PathBuf> {
    let said = variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = home.filter(|home| home.is_absolute() && home != Path::new("/"));
    Some(said.or_else(|| Some(home?.join(below_home)))?.join("bhatti"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_s_things_are_where_they_keep_their_own() {
        let found = |said: Option<&str>, home: Option<&str>| {
            own(|_| said.map(Into::into), home.map(Into::into), "XDG_DATA_HOME", ".local/share")
        };
        let at = |path: &str| Some(PathBuf::from(path));
        assert_eq!(found(None, Some("/home/u")), at("/home/u/.local/share/bhatti"));
        assert_eq!(found(Some("/data/u"), Some("/home/u")), at("/data/u/bhatti"));
        assert_eq!(found(Some("data"), Some("/home/u")), at("/home/u/.local/share/bhatti"));
        assert_eq!(found(None, Some("/")), None);
        assert_eq!(found(None, None), None);
    }
}

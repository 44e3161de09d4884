//! What an image says about how it is to be run, in `/etc/bhatti.conf`.
//!
//! ```text
//! # a comment
//! plain /var/lib/docker     a directory that lies beside the overlay
//! services off              no systemd, although it is there
//! ```

use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::log;

/// Below the guest's root.
const PATH: &str = "etc/bhatti.conf";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conf {
    /// Directories that lie on the writable disk itself.
    pub(crate) plain: Vec<PathBuf>,
    /// Whether systemd is to run if it is there.
    pub(crate) services: bool,
}

impl Conf {
    /// What the image at `root` says; the defaults if it says nothing.
    pub(crate) fn read(root: &Path) -> Self {
        let text = fs::read(root.join(PATH)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let (conf, wrong) = parse(&text);
        for line in wrong {
            log::warn(&format!("/{PATH}: {line:?} says nothing that is understood"));
        }
        conf
    }
}

/// The lines that make no sense come second.
fn parse(text: &str) -> (Conf, Vec<&str>) {
    let mut conf = Conf { plain: Vec::new(), services: true };
    let mut wrong = Vec::new();
    let lines = text.lines().map(str::trim);
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.split_once(char::is_whitespace).map(|(key, value)| (key, value.trim())) {
            Some(("plain", path)) if is_plain(Path::new(path)) => conf.plain.push(path.into()),
            Some(("services", "on")) => conf.services = true,
            Some(("services", "off")) => conf.services = false,
            _ => wrong.push(line),
        }
    }
    (conf, wrong)
}

/// Whether it is an absolute path, without detours, of something below the root.
fn is_plain(path: &Path) -> bool {
    let mut components = path.components();
    components.next() == Some(Component::RootDir)
        && components.clone().next().is_some()
        && components.all(|component| matches!(component, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_not_understood_changes_nothing() {
        let text = "# of docker\n\nplain /var/lib/docker\n  plain\t/srv/x \nplain relative\n\
                    plain /\nplain /a/../b\nservices maybe\nunknown\n";
        let (conf, wrong) = parse(text);
        assert_eq!(conf.plain, ["/var/lib/docker", "/srv/x"].map(PathBuf::from));
        assert!(conf.services);
        assert_eq!(
            wrong,
            ["plain relative", "plain /", "plain /a/../b", "services maybe", "unknown"]
        );
        assert!(!parse("services off").0.services);
    }

    proptest! {
        #[test]
        fn any_text_parses(text in "[a-z/. #\n]{0,200}") {
            let (conf, _) = parse(&text);
            prop_assert!(conf.plain.iter().all(|path| is_plain(path)));
        }
    }
}

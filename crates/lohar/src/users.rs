//! Who a command runs as, from the guest's `/etc/passwd` and `/etc/group`.
//!
//! The files are parsed again only when they have changed: two `stat` calls are all that most
//! commands cost here.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Gid, Uid};

/// The user that commands run as unless told otherwise.
pub(crate) const DEFAULT_UID: u32 = 1000;

/// Name of the default user if the image has nobody with that id.
pub(crate) const DEFAULT_NAME: &str = "lohar";

const DEFAULT_SHELL: &str = "/bin/sh";

/// Somebody that a command can run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
    /// Supplementary groups, the own one included.
    pub(crate) groups: Vec<Gid>,
    pub(crate) home: String,
    pub(crate) shell: String,
}

/// One line of a passwd file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) home: String,
    pub(crate) shell: String,
}

/// Name, id and members of a group.
type Group = (String, u32, Vec<String>);

#[derive(Debug, Default)]
struct Accounts {
    entries: Vec<Entry>,
    groups: Vec<Group>,
}

/// Tells one content of a file from the next: inode, size, modification time.
type Stamp = Option<(u64, u64, i64, i64)>;

/// The users of a guest.
#[derive(Debug)]
pub(crate) struct Users {
    passwd: PathBuf,
    group: PathBuf,
    cached: Mutex<([Stamp; 2], Arc<Accounts>)>,
}

impl Users {
    /// The users of the guest whose root is at `root`.
    pub(crate) fn at(root: &Path) -> Self {
        Self {
            passwd: root.join("etc/passwd"),
            group: root.join("etc/group"),
            cached: Mutex::default(),
        }
    }

    /// Finds a user by name or number, with the group after a colon if there is one; the default user
    /// if `wanted` is `None`. Numbers need no entry. `None` if there is no such user or group.
    pub(crate) fn find(&self, wanted: Option<&str>) -> Option<User> {
        let Some((user, group)) = wanted.and_then(|wanted| wanted.split_once(':')) else {
            return self.find_user(wanted);
        };
        let gid = self.find_group(group)?;
        Some(User { gid, groups: vec![gid], ..self.find_user(Some(user))? })
    }

    /// As [`find`](Self::find), for what an image says: a number without an entry is in group 0, on
    /// which images rely that let anybody write where that group may.
    pub(crate) fn of_image(&self, said: &str) -> Option<User> {
        let found = self.find(Some(said))?;
        let accounts = self.accounts();
        let known = accounts.entries.iter().any(|entry| entry.uid == found.uid.as_raw());
        if known || said.contains(':') {
            return Some(found);
        }
        Some(User { gid: Gid::ROOT, groups: vec![Gid::ROOT], ..found })
    }

    fn find_user(&self, wanted: Option<&str>) -> Option<User> {
        let accounts = self.accounts();
        let by_name = |name: &str| accounts.entries.iter().find(|entry| entry.name == name);
        let uid = match wanted {
            None => DEFAULT_UID,
            Some(name) => match by_name(name) {
                Some(entry) => return Some(accounts.user(entry)),
                None => name.parse().ok().filter(|uid| *uid != u32::MAX)?,
            },
        };
        let known = accounts.entries.iter().find(|entry| entry.uid == uid);
        Some(known.map_or_else(|| accounts.user(&nameless(uid)), |entry| accounts.user(entry)))
    }

    /// Finds a group by name or number; a number needs no entry. `None` if there is no such group.
    pub(crate) fn find_group(&self, wanted: &str) -> Option<Gid> {
        let accounts = self.accounts();
        let by_name = accounts.groups.iter().find(|group| group.0 == wanted).map(|group| group.1);
        let id = by_name.or_else(|| wanted.parse().ok().filter(|gid| *gid != u32::MAX))?;
        Some(Gid::from_raw(id))
    }

    fn accounts(&self) -> Arc<Accounts> {
        let stamps = [stamp(&self.passwd), stamp(&self.group)];
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.0 != stamps {
            let text = |path| fs::read(path).unwrap_or_default();
            let passwd = text(&self.passwd);
            let group = text(&self.group);
            let accounts = Accounts {
                entries: parse_passwd(&String::from_utf8_lossy(&passwd)),
                groups: parse_group(&String::from_utf8_lossy(&group)),
            };
            *cached = (stamps, Arc::new(accounts));
        }
        Arc::clone(&cached.1)
    }
}

impl Accounts {
    fn user(&self, entry: &Entry) -> User {
        let gid = Gid::from_raw(entry.gid);
        let member = |group: &&Group| group.2.contains(&entry.name) && group.1 != entry.gid;
        let others = self.groups.iter().filter(member).map(|group| Gid::from_raw(group.1));
        User {
            name: entry.name.clone(),
            uid: Uid::from_raw(entry.uid),
            gid,
            groups: [gid].into_iter().chain(others).collect(),
            home: entry.home.clone(),
            shell: entry.shell.clone(),
        }
    }
}

fn nameless(uid: u32) -> Entry {
    let (name, home, shell) = (uid.to_string(), "/".to_owned(), DEFAULT_SHELL.to_owned());
    Entry { name, uid, gid: uid, home, shell }
}

fn stamp(path: &Path) -> Stamp {
    let meta = fs::metadata(path).ok()?;
    Some((meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

/// The well-formed lines of a passwd file.
pub(crate) fn parse_passwd(text: &str) -> Vec<Entry> {
    let entry = |line: &str| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let _comment = fields.next()?;
        let or = |field: Option<&str>, default: &str| {
            field.filter(|text| !text.is_empty()).unwrap_or(default).to_owned()
        };
        let (home, shell) = (or(fields.next(), "/"), or(fields.next(), DEFAULT_SHELL));
        (!name.is_empty()).then(|| Entry { name: name.to_owned(), uid, gid, home, shell })
    };
    text.lines().filter_map(entry).collect()
}

/// The well-formed lines of a group file.
pub(crate) fn parse_group(text: &str) -> Vec<Group> {
    let group = |line: &str| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let gid = fields.next()?.parse().ok()?;
        let members = fields.next().unwrap_or_default();
        let members = members.split(',').filter(|name| !name.is_empty()).map(str::to_owned);
        Some((name.to_owned(), gid, members.collect()))
    };
    text.lines().filter_map(group).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn guest(passwd: &str, group: &str) -> (tempfile::TempDir, Users) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/passwd"), passwd).unwrap();
        fs::write(root.path().join("etc/group"), group).unwrap();
        let users = Users::at(root.path());
        (root, users)
    }

    #[test]
    fn users_are_found_by_name_number_and_default() {
        let (_root, users) = guest(
            "root:x:0:0:root:/root:/bin/bash\nann:x:1000:1001::/home/ann:\nbroken\n12:x:77:77:::\n",
            "root:x:0:\nann:x:1001:ann\ndocker:x:99:bob,ann\nodd:x:no:ann\n",
        );
        let ann = users.find(None).unwrap();
        assert_eq!((ann.name.as_str(), ann.home.as_str()), ("ann", "/home/ann"));
        assert_eq!(ann.shell, "/bin/sh");
        assert_eq!(ann.groups, [1001, 99].map(Gid::from_raw));
        assert_eq!(users.find(Some("ann")), Some(ann.clone()));
        assert_eq!(users.find(Some("1000")), Some(ann));
        assert_eq!(users.find(Some("root")).unwrap().shell, "/bin/bash");
        assert_eq!(users.find(Some("12")).unwrap().uid, Uid::from_raw(77));
        assert_eq!(users.find(Some("4242")).unwrap().home, "/");
        assert_eq!(users.find_group("docker"), Some(Gid::from_raw(99)));
        assert_eq!(users.find_group("4242"), Some(Gid::from_raw(4242)));
        for nothing in ["odd", "", "-1", "4294967295"] {
            assert_eq!(users.find_group(nothing), None, "{nothing}");
        }
        for nobody in ["bob", "", "-1", "4294967295", "ann:", ":docker", "ann:bob", "ann:99:1"] {
            assert_eq!(users.find(Some(nobody)), None, "{nobody}");
        }
    }

    #[test]
    fn a_group_may_be_said_and_an_image_s_bare_number_is_in_that_of_root() {
        let (_root, users) = guest(
            "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1001::/home/ann:\n",
            "ann:x:1001:ann\ndocker:x:99:ann\n",
        );
        let ids = |user: Option<User>| {
            let user = user.unwrap();
            let groups: Vec<u32> = user.groups.iter().map(|gid| gid.as_raw()).collect();
            (user.uid.as_raw(), user.gid.as_raw(), groups)
        };
        for (said, expected) in [
            ("ann", (1000, 1001, vec![1001, 99])),
            ("1000", (1000, 1001, vec![1001, 99])),
            ("ann:docker", (1000, 99, vec![99])),
            ("ann:7", (1000, 7, vec![7])),
            ("5:docker", (5, 99, vec![99])),
            ("5:6", (5, 6, vec![6])),
            ("0:0", (0, 0, vec![0])),
        ] {
            assert_eq!(ids(users.find(Some(said))), expected, "{said}");
            assert_eq!(ids(users.of_image(said)), expected, "{said}");
        }
        assert_eq!(ids(users.find(Some("5"))), (5, 5, vec![5]));
        assert_eq!(ids(users.of_image("5")), (5, 0, vec![0]));
        for nobody in ["bob", "", "ann:nothing"] {
            assert_eq!(users.of_image(nobody), None, "{nobody}");
        }
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let (root, users) = guest("", "");
        assert_eq!(users.find(Some("new")), None);
        fs::write(root.path().join("etc/passwd"), "new:x:5:5::/:/bin/sh\n").unwrap();
        assert_eq!(users.find(Some("new")).unwrap().uid, Uid::from_raw(5));
    }

    proptest! {
        #[test]
        fn any_text_parses(text in "[a-z0-9:,\n]{0,200}") {
            parse_passwd(&text);
            parse_group(&text);
        }
    }
}

//! What the kernel's events mean.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use proto::message::{Change, ChangeKind};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::fs::{AtFlags, CWD, FileType, statat};
use rustix::io::Errno;

use super::{DIRECTORIES_MAX, End};
use crate::files::at::{beneath, each_entry, open_directory};

/// Bytes of events that are read at once.
const EVENTS: usize = 64 * 1024;

/// Changes that are told together.
const CHANGES: usize = 2000;

/// Open files whose writes are remembered.
const MODIFIED_MAX: usize = 4096;

const WANTED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::EXCL_UNLINK);

/// Path below the watched one, empty for that itself.
type Relative = Vec<u8>;

struct Event {
    watch: i32,
    mask: ReadFlags,
    cookie: u32,
    name: Vec<u8>,
}

/// Something that was moved away and may turn up again.
struct Moving {
    /// Where among the changes its removal is told.
    index: usize,
    path: Relative,
    /// Watches in it, with what follows its own path.
    watches: Vec<(i32, Vec<u8>)>,
}

/// Follows what happens below a path.
pub(super) struct Tracker {
    place: PathBuf,
    /// The path as the host knows it, without a slash at its end.
    told: String,
    /// The one name in the directory that counts, if a file is watched.
    only: Option<Vec<u8>>,
    recursive: bool,
    root: i32,
    directories: HashMap<i32, Relative>,
    buffer: Vec<u8>,
    events: Vec<Event>,
    changes: Vec<Change>,
    moving: HashMap<u32, Moving>,
    /// What was found by looking into a new directory, and may be told by an event as well.
    found: HashSet<Relative>,
    /// Files whose write is among the changes.
    written: HashSet<Relative>,
    /// Files that were written to and not yet closed.
    modified: HashSet<Relative>,
    /// Those of them that were in this batch.
    open: HashSet<Relative>,
    gone: bool,
}

impl Tracker {
    /// Watches `place`; all that happens from now on will be told.
    pub(super) fn arm(
        place: PathBuf,
        told: String,
        recursive: bool,
    ) -> Result<(OwnedFd, Self), End> {
        let meta = statat(CWD, &place, AtFlags::empty())?;
        let (place, only) = if FileType::from_raw_mode(meta.st_mode).is_dir() {
            (place, None)
        } else {
            // Its directory is watched: a file is often replaced by another of its name.
            let real = std::fs::canonicalize(&place)
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::NOENT))?;
            let name = real.file_name().map(|name| name.as_bytes().to_vec());
            (real.parent().ok_or(Errno::NOENT)?.to_owned(), name)
        };
        let inotify = match inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) {
            Err(Errno::MFILE) => return Err(End::Limit),
            inotify => inotify?,
        };
        let root = inotify::add_watch(&inotify, &place, WANTED)?;
        let recursive = recursive && only.is_none();
        let mut tracker = Self {
            place,
            told,
            only,
            recursive,
            root,
            directories: HashMap::from([(root, Vec::new())]),
            buffer: Vec::new(),
            events: Vec::new(),
            changes: Vec::new(),
            moving: HashMap::new(),
            found: HashSet::new(),
            written: HashSet::new(),
            modified: HashSet::new(),
            open: HashSet::new(),
            gone: false,
        };
        if recursive {
            tracker.scan(&inotify, Vec::new(), false)?;
        }
        Ok((inotify, tracker))
    }

    /// Takes in the next events; answers whether to make sense of them means to look at the disk.
    ///
    /// # Errors
    /// `AGAIN` if there are none.
    pub(super) fn read(&mut self, inotify: &OwnedFd) -> Result<bool, Errno> {
        self.buffer.reserve(EVENTS);
        let mut reader = Reader::new(inotify, self.buffer.spare_capacity_mut());
        let mut looks_at_disk = false;
        loop {
            let event = match reader.next() {
                Err(Errno::AGAIN) => {
                    // All that was found has been told by now.
                    self.found.clear();
                    return Err(Errno::AGAIN);
                }
                event => event?,
            };
            let mask = event.events();
            let appears = mask.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO);
            looks_at_disk |= self.recursive
                && (appears && mask.contains(ReadFlags::ISDIR)
                    || mask.contains(ReadFlags::QUEUE_OVERFLOW));
            self.events.push(Event {
                watch: event.wd(),
                mask,
                cookie: event.cookie(),
                name: event.file_name().map_or(Vec::new(), |name| name.to_bytes().to_vec()),
            });
            if reader.is_buffer_empty() {
                return Ok(looks_at_disk);
            }
        }
    }

    /// Makes changes of the events.
    pub(super) fn digest(&mut self, inotify: &OwnedFd) -> Result<(), End> {
        for event in std::mem::take(&mut self.events) {
            self.one(inotify, event)?;
        }
        Ok(())
    }

    /// Whether the changes so far tell nothing by halves.
    pub(super) fn is_settled(&self) -> bool {
        self.moving.is_empty() && self.open.is_empty()
    }

    /// Whether there is enough to tell.
    pub(super) fn is_full(&self) -> bool {
        let few = if self.moving.is_empty() { CHANGES } else { 8 * CHANGES };
        self.changes.len() >= few
    }

    /// Whether the watched path is no more.
    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    /// The changes, oldest first. What was moved away by now is gone.
    pub(super) fn take(&mut self, inotify: &OwnedFd) -> Vec<Change> {
        for (_, moving) in self.moving.drain() {
            self.gone |= moving.path.is_empty();
            for (watch, _) in moving.watches {
                // It may be gone already.
                let _ = inotify::remove_watch(inotify, watch);
            }
        }
        self.written.clear();
        self.open.clear();
        if self.modified.len() > MODIFIED_MAX {
            self.modified.clear();
        }
        std::mem::take(&mut self.changes)
    }

    fn one(&mut self, inotify: &OwnedFd, event: Event) -> Result<(), End> {
        let Event { watch, mask, cookie, name } = event;
        if mask.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.changes.push(change(ChangeKind::Overflow, String::new(), false));
            self.modified.clear();
            return if self.recursive { self.scan(inotify, Vec::new(), false) } else { Ok(()) };
        }
        let Some(directory) = self.directories.get(&watch) else { return Ok(()) };
        let ends =
            ReadFlags::IGNORED | ReadFlags::UNMOUNT | ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF;
        if mask.intersects(ends) {
            if watch == self.root {
                self.tell(ChangeKind::Remove, &[], self.only.is_none());
                return Err(End::Gone);
            }
            // Of others the directory above tells.
            if mask.contains(ReadFlags::IGNORED) {
                self.directories.remove(&watch);
            }
            return Ok(());
        }
        let is_dir = mask.contains(ReadFlags::ISDIR);
        if name.is_empty() {
            if watch == self.root && self.only.is_none() && mask.contains(ReadFlags::ATTRIB) {
                self.tell(ChangeKind::Attributes, &[], true);
            }
            return Ok(());
        }
        let path = match &self.only {
            None => beneath(directory, &name),
            Some(only) if *only == name => Vec::new(),
            Some(_) => {
                self.renamed_away(mask, cookie, &name);
                return Ok(());
            }
        };
        self.named(inotify, mask, cookie, path, is_dir)
    }

    /// Something happened to `path`.
    fn named(
        &mut self,
        inotify: &OwnedFd,
        mask: ReadFlags,
        cookie: u32,
        path: Relative,
        is_dir: bool,
    ) -> Result<(), End> {
        if mask.contains(ReadFlags::MOVED_TO) {
            match self.moving.remove(&cookie) {
                Some(moving) => self.renamed(moving, &path),
                None => return self.created(inotify, path, is_dir),
            }
        } else if mask.contains(ReadFlags::CREATE) {
            return self.created(inotify, path, is_dir);
        } else if mask.contains(ReadFlags::MOVED_FROM) {
            self.forget(&path);
            let index = self.changes.len();
            self.tell(ChangeKind::Remove, &path, is_dir);
            let watches = if is_dir { self.detach(&path) } else { Vec::new() };
            self.moving.insert(cookie, Moving { index, path, watches });
        } else if mask.contains(ReadFlags::DELETE) {
            self.forget(&path);
            self.gone |= path.is_empty();
            self.tell(ChangeKind::Remove, &path, is_dir);
        } else if mask.contains(ReadFlags::ATTRIB) {
            self.tell(ChangeKind::Attributes, &path, is_dir);
        } else if mask.contains(ReadFlags::MODIFY) {
            if self.written.insert(path.clone()) {
                self.tell(ChangeKind::Write, &path, is_dir);
            }
            self.modified.insert(path.clone());
            self.open.insert(path);
        } else if mask.contains(ReadFlags::CLOSE_WRITE) {
            self.open.remove(&path);
            // Writes through a mapping show only now.
            if !self.modified.remove(&path) && self.written.insert(path.clone()) {
                self.tell(ChangeKind::Write, &path, is_dir);
            }
        }
        Ok(())
    }

    fn created(&mut self, inotify: &OwnedFd, path: Relative, is_dir: bool) -> Result<(), End> {
        if self.found.remove(&path) {
            return Ok(());
        }
        self.forget(&path);
        self.tell(ChangeKind::Create, &path, is_dir);
        if is_dir && self.recursive { self.scan(inotify, path, true) } else { Ok(()) }
    }

    /// What was told as removed has another name.
    fn renamed(&mut self, moving: Moving, path: &[u8]) {
        self.forget(path);
        for (watch, rest) in moving.watches {
            self.directories.insert(watch, [path, &rest].concat());
        }
        let to = self.absolute(path);
        self.rename(moving.index, to);
    }

    /// The watched file has another name now.
    fn renamed_away(&mut self, mask: ReadFlags, cookie: u32, name: &[u8]) {
        if mask.contains(ReadFlags::MOVED_TO)
            && let Some(moving) = self.moving.remove(&cookie)
        {
            let directory = self.told.rsplit_once('/').map_or("", |(directory, _)| directory);
            let to = format!("{directory}/{}", String::from_utf8_lossy(name));
            self.gone = true;
            self.rename(moving.index, to);
        }
    }

    fn rename(&mut self, index: usize, to: String) {
        if let Some(change) = self.changes.get_mut(index) {
            change.kind = ChangeKind::Rename;
            change.to = Some(to);
        }
    }

    /// Whatever is said of `path` next is about something else.
    fn forget(&mut self, path: &[u8]) {
        self.found.remove(path);
        self.written.remove(path);
        self.modified.remove(path);
        self.open.remove(path);
    }

    /// Takes the watches in a directory that was moved.
    fn detach(&mut self, path: &[u8]) -> Vec<(i32, Vec<u8>)> {
        let inside = |other: &Relative| {
            let rest = other.strip_prefix(path)?;
            (rest.is_empty() || rest.starts_with(b"/")).then(|| rest.to_vec())
        };
        let inside = |(watch, path): (&i32, &Relative)| Some((*watch, inside(path)?));
        let watches: Vec<_> = self.directories.iter().filter_map(inside).collect();
        for (watch, _) in &watches {
            self.directories.remove(watch);
        }
        watches
    }

    /// Watches a directory and those below it. What is in it may have been made before it was
    /// watched, so that there is no event: then it is told here.
    fn scan(&mut self, inotify: &OwnedFd, path: Relative, tell: bool) -> Result<(), End> {
        let mut left = vec![path];
        while let Some(path) = left.pop() {
            let place = self.place.join(OsStr::from_bytes(&path));
            if !path.is_empty() {
                match inotify::add_watch(inotify, &place, WANTED | WatchFlags::DONT_FOLLOW) {
                    Ok(watch) => self.directories.insert(watch, path.clone()),
                    // It is gone, or something else by now; somebody will tell.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => continue,
                    Err(errno) => return Err(errno.into()),
                };
                if self.directories.len() > DIRECTORIES_MAX {
                    return Err(End::Limit);
                }
            }
            let directory = match open_directory(&place) {
                Ok(directory) => directory,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => continue,
                Err(errno) => return Err(errno.into()),
            };
            each_entry(&directory, |name, kind| {
                let is_dir = match kind {
                    FileType::Unknown => statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)
                        .is_ok_and(|meta| FileType::from_raw_mode(meta.st_mode).is_dir()),
                    kind => kind.is_dir(),
                };
                let below = beneath(&path, name.to_bytes());
                if tell && self.found.insert(below.clone()) {
                    self.tell(ChangeKind::Create, &below, is_dir);
                }
                if is_dir {
                    left.push(below);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn tell(&mut self, kind: ChangeKind, path: &[u8], is_dir: bool) {
        let told = change(kind, self.absolute(path), is_dir);
        // Mode, owner and times are often changed together.
        if kind != ChangeKind::Attributes || self.changes.last() != Some(&told) {
            self.changes.push(told);
        }
    }

    fn absolute(&self, path: &[u8]) -> String {
        match (self.told.as_str(), path) {
            ("", []) => "/".to_owned(),
            (told, []) => told.to_owned(),
            (told, path) => format!("{told}/{}", String::from_utf8_lossy(path)),
        }
    }
}

fn change(kind: ChangeKind, path: String, is_dir: bool) -> Change {
    Change { kind, path, to: None, is_dir }
}

//! The tree that layers make together.
//!
//! Layers are applied lowest first and their entries in order, as if each archive was unpacked
//! over what is there by a program whose root directory is the tree: a link among the parents of a
//! name is followed inside of the tree, the last part of a name never. Whiteouts concern only what
//! lower layers have, wherever in their layer they are. The tree is a table in memory and knows no
//! other files.

use std::{borrow::Cow, collections::BTreeMap};

use crate::layer::{
    LayerError,
    index::{Content, Device, Entry, Kind, Meta},
    path::{DEPTH_MAX, EntryPath, NAME_MAX},
    shown,
};

/// Most inodes of an image, those included that later layers replace.
const INODES_MAX: usize = 4 << 20;

/// Most links that are followed for one name, as Linux does.
const LINKS_MAX: usize = 40;

/// Most directories that are looked into, for all names together. Layers of a million entries
/// need a tenth of that; links that lead to and fro could take hours.
const STEPS_MAX: u64 = 1 << 28;

/// The mode of a directory that no layer says anything of.
const IMPLICIT_MODE: u16 = 0o755;

/// Place of an inode in its tree.
pub(crate) type InodeId = usize;

/// The root directory's.
pub(crate) const ROOT: InodeId = 0;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inode {
    pub(crate) meta: Meta,
    pub(crate) body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    Directory(BTreeMap<Box<[u8]>, Dirent>),
    File {
        /// Which of the layers has it, counted from the lowest.
        layer: usize,
        content: Content,
    },
    Symlink(Vec<u8>),
    Character(Device),
    Block(Device),
    Fifo,
}

/// A name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dirent {
    pub(crate) inode: InodeId,
    /// The layer that was the last to say it.
    layer: usize,
}

/// All files of an image.
#[derive(Debug)]
pub(crate) struct Tree {
    inodes: Vec<Inode>,
    /// The layer that is being applied.
    layer: usize,
    steps: u64,
}

/// What happens where a directory is needed and is none.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Otherwise {
    Make,
    Stop,
}

impl Tree {
    pub(crate) fn new() -> Self {
        Self { inodes: vec![implicit()], layer: 0, steps: 0 }
    }

    pub(crate) fn inode(&self, id: InodeId) -> &Inode {
        &self.inodes[id]
    }

    /// How many inodes there are, those included that nothing leads to any more.
    pub(crate) fn len(&self) -> usize {
        self.inodes.len()
    }

    /// What is in a directory, by name; nothing if it is none.
    pub(crate) fn children(&self, id: InodeId) -> impl Iterator<Item = (&[u8], InodeId)> {
        let children = match &self.inodes[id].body {
            Body::Directory(children) => Some(children),
            _ => None,
        };
        children.into_iter().flatten().map(|(name, dirent)| (&**name, dirent.inode))
    }

    /// Applies the entries of layer number `layer`, which is higher than all before.
    pub(crate) fn apply(
        &mut self,
        layer: usize,
        entries: impl IntoIterator<Item = Entry>,
    ) -> Result<(), LayerError> {
        self.layer = layer;
        entries.into_iter().try_for_each(|entry| self.entry(entry))
    }

    fn entry(&mut self, entry: Entry) -> Result<(), LayerError> {
        let Entry { path, meta, kind } = entry;
        let Some((parent, name)) = path.split_last() else {
            return self.root(meta, &kind);
        };
        let body = match kind {
            Kind::Whiteout => {
                let Some(parent) = self.directory(parent, Otherwise::Stop)? else { return Ok(()) };
                return self.hide(parent, name);
            }
            Kind::Opaque => {
                let Some(directory) = self.directory(path.as_bytes(), Otherwise::Stop)? else {
                    return Ok(());
                };
                return self.prune(directory).map(drop);
            }
            Kind::HardLink(target) => {
                let inode = self.linked(&path, &target)?;
                let parent = self.made(parent)?;
                return self.put(parent, name, inode);
            }
            Kind::Directory => Body::Directory(BTreeMap::new()),
            Kind::File(content) => Body::File { layer: self.layer, content },
            Kind::Symlink(target) => Body::Symlink(target),
            Kind::Character(device) => Body::Character(device),
            Kind::Block(device) => Body::Block(device),
            Kind::Fifo => Body::Fifo,
        };
        let parent = self.made(parent)?;
        if matches!(body, Body::Directory(_))
            && let Some(id) = self.lookup(parent, name)
            && matches!(self.inodes[id].body, Body::Directory(_))
        {
            self.inodes[id].meta = meta;
            return self.put(parent, name, id);
        }
        let inode = self.add(Inode { meta, body })?;
        self.put(parent, name, inode)
    }

    fn root(&mut self, meta: Meta, kind: &Kind) -> Result<(), LayerError> {
        match kind {
            Kind::Directory => self.inodes[ROOT].meta = meta,
            Kind::Opaque => drop(self.prune(ROOT)?),
            _ => {
                let reason = "the root can only be a directory";
                return Err(LayerError::Entry { name: "/".to_owned(), reason });
            }
        }
        Ok(())
    }

    /// The inode that a hard link is another name of.
    fn linked(&mut self, path: &EntryPath, target: &EntryPath) -> Result<InodeId, LayerError> {
        let refused = |reason| LayerError::Link {
            name: shown(path.as_bytes()),
            target: shown(target.as_bytes()),
            reason,
        };
        let Some((parent, name)) = target.split_last() else {
            return Err(refused("its target is a directory"));
        };
        let parent = self.directory(parent, Otherwise::Stop)?;
        let found = parent.and_then(|parent| self.lookup(parent, name));
        let id = found
            .ok_or_else(|| refused("neither this layer so far nor a lower one has its target"))?;
        if matches!(self.inodes[id].body, Body::Directory(_)) {
            return Err(refused("its target is a directory"));
        }
        Ok(id)
    }

    fn lookup(&self, directory: InodeId, name: &[u8]) -> Option<InodeId> {
        match &self.inodes[directory].body {
            Body::Directory(children) => children.get(name).map(|dirent| dirent.inode),
            _ => None,
        }
    }

    fn put(&mut self, directory: InodeId, name: &[u8], inode: InodeId) -> Result<(), LayerError> {
        let dirent = Dirent { inode, layer: self.layer };
        if let Body::Directory(children) = &mut self.inodes[directory].body {
            children.insert(name.into(), dirent);
        }
        self.step()
    }

    fn add(&mut self, inode: Inode) -> Result<InodeId, LayerError> {
        if self.inodes.len() >= INODES_MAX {
            return Err(LayerError::TooLarge {
                what: "files and directories",
                limit: INODES_MAX as u64,
            });
        }
        self.inodes.push(inode);
        Ok(self.inodes.len() - 1)
    }

    fn step(&mut self) -> Result<(), LayerError> {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            let what = "steps from directory to directory that its names take";
            return Err(LayerError::TooLarge { what, limit: STEPS_MAX });
        }
        Ok(())
    }

    fn made(&mut self, path: &[u8]) -> Result<InodeId, LayerError> {
        // With `Make` there always is one.
        Ok(self.directory(path, Otherwise::Make)?.unwrap_or(ROOT))
    }

    /// The directory that a path leads to. Where there is none on the way, one is made in place of
    /// whatever is there, or there is no answer.
    fn directory(
        &mut self,
        path: &[u8],
        otherwise: Otherwise,
    ) -> Result<Option<InodeId>, LayerError> {
        let refused = |reason| LayerError::Entry { name: shown(path), reason };
        let mut rest = Cow::Borrowed(path);
        let (mut at, mut links) = (0, 0);
        let mut way = vec![ROOT];
        while at < rest.len() {
            self.step()?;
            let end =
                rest[at..].iter().position(|byte| *byte == b'/').map_or(rest.len(), |n| at + n);
            let name = &rest[at..end];
            at = (end + 1).min(rest.len());
            match name {
                b"" | b"." => continue,
                b".." => {
                    way.truncate((way.len() - 1).max(1));
                    continue;
                }
                _ => {}
            }
            let here = way.last().copied().unwrap_or(ROOT);
            let found = self.lookup(here, name);
            match found.map(|id| (id, &self.inodes[id].body)) {
                Some((id, Body::Directory(_))) => way.push(id),
                Some((_, Body::Symlink(target))) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(refused("more than 40 links are on the way to it"));
                    }
                    if target.starts_with(b"/") {
                        way.truncate(1);
                    }
                    rest = Cow::Owned([target, b"/".as_slice(), &rest[at..]].concat());
                    at = 0;
                }
                _ if otherwise == Otherwise::Stop => return Ok(None),
                _ if name.len() > NAME_MAX => {
                    return Err(refused(
                        "a link on the way to it has a part longer than 255 bytes",
                    ));
                }
                _ => {
                    let made = self.add(implicit())?;
                    self.put(here, name, made)?;
                    way.push(made);
                }
            }
            if way.len() > DEPTH_MAX {
                return Err(refused("it is more than 512 directories deep"));
            }
        }
        Ok(way.last().copied())
    }

    /// Takes away what lower layers have under a name.
    fn hide(&mut self, directory: InodeId, name: &[u8]) -> Result<(), LayerError> {
        let Body::Directory(children) = &self.inodes[directory].body else { return Ok(()) };
        let Some(dirent) = children.get(name).copied() else { return Ok(()) };
        let empty = self.prune(dirent.inode)?;
        if dirent.layer < self.layer
            && empty
            && let Body::Directory(children) = &mut self.inodes[directory].body
        {
            children.remove(name);
        }
        Ok(())
    }

    /// Takes away what lower layers have in a directory, and says whether nothing is left, which
    /// is also so for what is no directory.
    fn prune(&mut self, id: InodeId) -> Result<bool, LayerError> {
        self.step()?;
        let Body::Directory(children) = &mut self.inodes[id].body else { return Ok(true) };
        let mut children = std::mem::take(children);
        let mut failed = None;
        children.retain(|_, dirent| match self.prune(dirent.inode) {
            Ok(empty) => dirent.layer == self.layer || !empty,
            Err(error) => {
                failed.get_or_insert(error);
                true
            }
        });
        let empty = children.is_empty();
        self.inodes[id].body = Body::Directory(children);
        failed.map_or(Ok(empty), Err)
    }
}

fn implicit() -> Inode {
    let meta = Meta { mode: IMPLICIT_MODE, ..Meta::default() };
    Inode { meta, body: Body::Directory(BTreeMap::new()) }
}

#[cfg(test)]
mod tests;

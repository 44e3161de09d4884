//! Names of entries: what an archive says, and what is made of it.
//!
//! Nothing here or elsewhere joins such a name to a path of the host. Names are keys of our own
//! tree and bytes of the image.

use super::LayerError;
use crate::layer::error::shown;

/// Longest name of one directory entry, in bytes, as Linux has it.
pub(crate) const NAME_MAX: usize = 255;
/// Longest path, in bytes, as Linux has it.
pub(crate) const PATH_MAX: usize = 4096;
/// Most directories below each other.
pub(crate) const DEPTH_MAX: usize = 512;

/// Before the name of what a layer takes away.
pub(super) const WHITEOUT: &[u8] = b".wh.";
const AUFS: &[u8] = b".wh..wh.";
/// The name of what says that a layer takes away all there is in a directory.
pub(super) const OPAQUE: &[u8] = b".wh..wh..opq";

/// A clean path below the root: components with a `/` between them; empty for the root itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct EntryPath(Vec<u8>);

impl EntryPath {
    /// Cleans a name of an archive: leading and doubled slashes and `.` mean nothing.
    pub(super) fn clean(name: &[u8]) -> Result<Self, LayerError> {
        let refused = |reason| LayerError::Entry { name: shown(name), reason };
        if name.len() > PATH_MAX {
            return Err(refused("its name is longer than 4096 bytes"));
        }
        let mut clean = Vec::with_capacity(name.len());
        let mut depth = 0;
        for component in name.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err(refused("its name leads upwards with ..")),
                _ if component.contains(&0) => return Err(refused("its name has a zero byte")),
                _ if component.len() > NAME_MAX => {
                    return Err(refused("a part of its name is longer than 255 bytes"));
                }
                _ => {}
            }
            depth += 1;
            if depth > DEPTH_MAX {
                return Err(refused("it is more than 512 directories deep"));
            }
            if !clean.is_empty() {
                clean.push(b'/');
            }
            clean.extend_from_slice(component);
        }
        Ok(Self(clean))
    }

    /// What is stored as such a path, if it is one.
    pub(crate) fn stored(bytes: &[u8]) -> Option<Self> {
        Self::clean(bytes).ok().filter(|path| path.0 == bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
    }

    /// Everything but the last component, and that; `None` for the root.
    pub(crate) fn split_last(&self) -> Option<(&[u8], &[u8])> {
        if self.is_root() {
            return None;
        }
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(at) => Some((&self.0[..at], &self.0[at + 1..])),
            None => Some((b"", &self.0)),
        }
    }

    fn sibling(parent: &[u8], name: &[u8]) -> Self {
        if parent.is_empty() { Self(name.to_owned()) } else { Self([parent, b"/", name].concat()) }
    }
}

/// What a clean name means in a layer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// An entry of that name.
    Entry(EntryPath),
    /// What lower layers have under that name is gone.
    Whiteout(EntryPath),
    /// What lower layers have in that directory is gone.
    Opaque(EntryPath),
    /// Book-keeping of a file system that once wrote layers.
    Nothing,
}

/// Tells whiteouts from entries.
pub(super) fn meaning(path: EntryPath) -> Result<Meaning, LayerError> {
    let refused = |reason| Err(LayerError::Entry { name: shown(path.as_bytes()), reason });
    let Some((parent, name)) = path.split_last() else {
        return Ok(Meaning::Entry(path));
    };
    if name == OPAQUE && !has_whiteout(parent) {
        let directory = EntryPath(parent.to_owned());
        return Ok(Meaning::Opaque(directory));
    }
    if path.components().any(|component| component.starts_with(AUFS)) {
        return Ok(Meaning::Nothing);
    }
    if has_whiteout(parent) {
        return refused("a whiteout has nothing below it");
    }
    let Some(hidden) = name.strip_prefix(WHITEOUT) else {
        return Ok(Meaning::Entry(path));
    };
    match hidden {
        b"" | b"." | b".." => refused("it is a whiteout of no name"),
        _ => Ok(Meaning::Whiteout(EntryPath::sibling(parent, hidden))),
    }
}

fn has_whiteout(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(|component| component.starts_with(WHITEOUT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Result<Meaning, LayerError> {
        EntryPath::clean(name.as_bytes()).and_then(meaning)
    }

    fn path(name: &str) -> EntryPath {
        EntryPath(name.as_bytes().to_vec())
    }

    #[test]
    fn names_mean_what_they_mean_below_the_root() {
        for (name, clean) in [
            ("a", "a"),
            ("./a//b/./c/", "a/b/c"),
            ("/etc/passwd", "etc/passwd"),
            ("", ""),
            ("./", ""),
            ("///", ""),
            ("...", "..."),
            ("a/..b", "a/..b"),
        ] {
            assert_eq!(of(name).unwrap(), Meaning::Entry(path(clean)), "{name}");
        }
    }

    #[test]
    fn whiteouts_are_told_from_entries() {
        assert_eq!(of("a/.wh.b").unwrap(), Meaning::Whiteout(path("a/b")));
        assert_eq!(of(".wh.b").unwrap(), Meaning::Whiteout(path("b")));
        assert_eq!(of("a/.wh..wh..opq").unwrap(), Meaning::Opaque(path("a")));
        assert_eq!(of(".wh..wh..opq").unwrap(), Meaning::Opaque(path("")));
        for name in
            [".wh..wh.plnk/1.2", ".wh..wh.aufs", "a/.wh..wh.orph/x", ".wh..wh.x/.wh..wh..opq"]
        {
            assert_eq!(of(name).unwrap(), Meaning::Nothing, "{name}");
        }
    }

    #[test]
    fn names_that_lead_anywhere_else_are_refused() {
        let deep = "d/".repeat(DEPTH_MAX + 1);
        let long = "n".repeat(NAME_MAX + 1);
        let path = "n/".repeat(PATH_MAX);
        for name in [
            "..",
            "../a",
            "a/..",
            "a/../b",
            "/../a",
            "a\0b",
            ".wh.",
            ".wh..",
            ".wh...",
            "a/.wh.",
            "a/.wh...",
            ".wh.a/b",
            "a/.wh.b/c",
            &deep,
            &long,
            &path,
        ] {
            assert!(matches!(of(name), Err(LayerError::Entry { .. })), "{name}");
        }
    }
}

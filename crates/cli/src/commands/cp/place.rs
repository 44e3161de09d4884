//! What is copied, and where it ends up: the rules of `cp -r` and `docker cp`.

use std::{ffi::OsStr, path::PathBuf};

/// One side of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Side {
    /// A path of this machine.
    Here(PathBuf),
    /// A path of a sandbox.
    There { sandbox: String, path: String },
    /// A tar archive on stdin or stdout.
    Archive,
}

impl Side {
    /// Reads `SANDBOX:/PATH`, `-` or a path of this machine. A path with a colon in it is one of
    /// this machine if a slash comes before the colon, as in `./a:b`.
    pub(crate) fn parse(text: &OsStr) -> Result<Self, String> {
        if text == "-" {
            return Ok(Self::Archive);
        }
        if text.is_empty() {
            return Err("a path is missing".to_owned());
        }
        let Some((sandbox, path)) = text.to_str().and_then(|text| text.split_once(':')) else {
            return Ok(Self::Here(PathBuf::from(text)));
        };
        if sandbox.is_empty() || sandbox.contains('/') {
            return Ok(Self::Here(PathBuf::from(text)));
        }
        if !path.starts_with('/') {
            return Err(format!("{sandbox}:{path}: a path in a sandbox has to be absolute"));
        }
        Ok(Self::There { sandbox: sandbox.to_owned(), path: path.to_owned() })
    }
}

/// What is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Source {
    /// Whether it is a directory.
    pub(crate) directory: bool,
    /// Whether all that is in it is meant, and not itself.
    pub(crate) contents: bool,
}

/// What is at the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing; whether it can be made.
    Nothing {
        possible: bool,
    },
    File,
    Directory,
    /// A device or pipe: what is written there goes through it.
    Device,
}

/// Where a copy ends up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// At the destination itself.
    Exactly,
    /// In the directory that the destination is, under the source's last name.
    Inside,
}

/// Where a copy to `found` ends up; `slash`: the destination was written as a directory.
pub(crate) fn place(source: Source, found: Found, slash: bool) -> Result<Place, &'static str> {
    let Source { directory, contents } = source;
    match found {
        Found::Nothing { possible: false } => Err("the directory that it would be in is missing"),
        Found::Nothing { possible: true } if slash && !directory => Ok(Place::Inside),
        Found::Nothing { possible: true } => Ok(Place::Exactly),
        Found::Directory if contents => Ok(Place::Exactly),
        Found::Directory => Ok(Place::Inside),
        Found::File | Found::Device if directory => {
            Err("a file is there, and a directory is copied")
        }
        Found::File | Found::Device if slash => Err("it is not a directory"),
        Found::File | Found::Device => Ok(Place::Exactly),
    }
}

/// Whether the path is written as one of a directory's contents: it ends in `.`, or is `/`.
pub(crate) fn means_contents(path: &[u8]) -> bool {
    path.iter().all(|byte| *byte == b'/')
        || matches!(path, b"." | b"..")
        || path.ends_with(b"/.")
        || path.ends_with(b"/..")
}

/// Whether the path is written as one of a directory.
pub(crate) fn means_directory(path: &[u8]) -> bool {
    path.ends_with(b"/") || means_contents(path)
}

/// The last name of a path in a sandbox.
pub(crate) fn last_name(path: &str) -> Option<&str> {
    path.split('/').rev().find(|part| !matches!(*part, "" | ".")).filter(|name| *name != "..")
}

/// A name in a directory of a sandbox.
pub(crate) fn join(directory: &str, name: &str) -> String {
    format!("{}/{name}", directory.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_is_told_from_a_path() {
        let here = |path: &str| Ok(Side::Here(path.into()));
        let there = |sandbox: &str, path: &str| {
            Ok(Side::There { sandbox: sandbox.into(), path: path.into() })
        };
        let cases = [
            ("a", here("a")),
            ("./a:b", here("./a:b")),
            ("/x:/y", here("/x:/y")),
            (":/x", here(":/x")),
            ("dev:/x", there("dev", "/x")),
            ("dev:/a:b", there("dev", "/a:b")),
            ("-", Ok(Side::Archive)),
        ];
        for (text, side) in cases {
            assert_eq!(Side::parse(OsStr::new(text)), side, "{text}");
        }
        for bad in ["dev:x", "dev:", ""] {
            assert!(Side::parse(OsStr::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn copies_end_up_where_cp_puts_them() {
        const FILE: Source = Source { directory: false, contents: false };
        const TREE: Source = Source { directory: true, contents: false };
        const CONTENTS: Source = Source { directory: true, contents: true };
        const NEW: Found = Found::Nothing { possible: true };
        const LOST: Found = Found::Nothing { possible: false };
        let (exactly, inside) = (Some(Place::Exactly), Some(Place::Inside));
        // Source, what is there: without a slash after it, and with one.
        let cases = [
            (FILE, NEW, exactly, inside),
            (FILE, LOST, None, None),
            (FILE, Found::File, exactly, None),
            (FILE, Found::Directory, inside, inside),
            (FILE, Found::Device, exactly, None),
            (TREE, NEW, exactly, exactly),
            (TREE, LOST, None, None),
            (TREE, Found::File, None, None),
            (TREE, Found::Directory, inside, inside),
            (TREE, Found::Device, None, None),
            (CONTENTS, NEW, exactly, exactly),
            (CONTENTS, Found::File, None, None),
            (CONTENTS, Found::Directory, exactly, exactly),
        ];
        for (source, found, plain, slash) in cases {
            assert_eq!(place(source, found, false).ok(), plain, "{source:?} to {found:?}");
            assert_eq!(place(source, found, true).ok(), slash, "{source:?} to {found:?}/");
        }
    }

    #[test]
    fn paths_say_what_they_mean() {
        for contents in ["/", ".", "..", "a/.", "/a/.", "a/.."] {
            assert!(means_contents(contents.as_bytes()), "{contents}");
        }
        assert!(!means_contents(b"a") && !means_contents(b"a/") && !means_contents(b"a."));
        assert!(means_directory(b"a/") && !means_directory(b"a"));
        assert_eq!(last_name("/a/b/"), Some("b"));
        assert_eq!(
            (last_name("/a/b/."), last_name("/"), last_name("/..")),
            (Some("b"), None, None)
        );
        assert_eq!((join("/a/", "b"), join("/", "b")), ("/a/b".into(), "/b".into()));
    }
}

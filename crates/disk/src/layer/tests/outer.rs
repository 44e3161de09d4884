//! Lists of archives around layers.

use std::io::Cursor;

use proptest::prelude::*;

use super::tarball::{Raw, Tarball};
use crate::layer::{
    LayerError,
    outer::{Member, Members, list},
};

fn listed(tar: &[u8]) -> Result<Option<Members>, LayerError> {
    list(&mut Cursor::new(tar))
}

/// With what makes it an archive of images.
fn marked() -> Tarball {
    Tarball::default().file("manifest.json", "[]")
}

fn member(tar: Tarball, name: &str) -> Option<Member> {
    listed(&tar.end()).unwrap().unwrap().get(name.as_bytes()).cloned()
}

#[test]
fn members_are_where_they_are_whatever_way_their_names_are_written() {
    let long = format!("{}/layer.tar", "x".repeat(150));
    let at = |archive: &[u8], member: &Member| match member {
        Member::File { at, size } => {
            let at = usize::try_from(*at).unwrap();
            archive[at..at + usize::try_from(*size).unwrap()].to_vec()
        }
        other => panic!("{other:?}"),
    };
    let gnu = |tar: Tarball| tar.entry(b'L', "././@LongLink", format!("{long}\0").as_bytes());
    for tar in [
        marked().file(&long, "content"),
        gnu(marked()).file("short", "content"),
        marked().entry(b'g', "pax", b"13 comment=a\n").file(&long, "content"),
        // A size that is only in the extended header.
        marked()
            .pax(&[("path", long.as_bytes()), ("size", b"7")])
            .header(Raw::new(b'0', b"short", 0), b"content"),
    ] {
        let bytes = tar.file("last", "after").end();
        let members = listed(&bytes).unwrap().unwrap();
        assert_eq!(at(&bytes, &members[long.as_bytes()]), b"content");
        assert_eq!(at(&bytes, &members[b"last".as_slice()]), b"after");
    }
    let dotted = marked().file("./blobs//sha256/./x", "content");
    assert!(matches!(member(dotted, "blobs/sha256/x"), Some(Member::File { size: 7, .. })));
    let twice = marked().file("a", "1").file("./a", "2");
    assert_eq!(member(twice, "a"), Some(Member::Several));
}

#[test]
fn links_are_names_and_nothing_else() {
    for (at, to, expected) in [
        ("a/b", "../c", "c"),
        ("a/b", "c", "a/c"),
        ("a/b", ".//c/../d", "a/d"),
        ("b", "../c", ""),
        ("a/b", "../../c", ""),
        ("a/b", "/etc/passwd", ""),
    ] {
        let expected = Some(Member::Link(expected.as_bytes().to_vec()));
        assert_eq!(member(marked().symlink(at, to), at), expected, "{at} {to}");
    }
    let expected = Some(Member::Link(b"c".to_vec()));
    assert_eq!(member(marked().hard_link("a/b", "c"), "a/b"), expected);
}

#[test]
fn what_is_cut_off_or_too_large_is_told() {
    let whole = marked().file("a", vec![1; 2000]).unended();
    for length in [100, 513, 1024 + 100, 1024 + 512 + 100, whole.len() - 49] {
        let told = listed(&whole[..length]);
        assert!(matches!(told, Err(LayerError::Truncated(_))), "{length}: {told:?}");
    }
    // The last padding is missed by nobody.
    assert!(listed(&whole[..whole.len() - 48]).is_ok());
    for kind in [b'x', b'L', b'K'] {
        let huge = marked().raw(&Raw::new(kind, b"n", 2 << 20).summed()).unended();
        assert!(matches!(listed(&huge), Err(LayerError::Header { .. })));
        let cut = marked().raw(&Raw::new(kind, b"n", 2000).summed()).raw(b"x").unended();
        assert!(matches!(listed(&cut), Err(LayerError::Truncated(_))));
    }
    let huge =
        Raw::new(b'0', b"n", 0).set(124, &[0x80, 0, 0, 0, 0x7f, 255, 255, 255, 255, 255, 255, 255]);
    let huge = marked().raw(&huge.summed()).unended();
    assert!(matches!(listed(&huge), Err(LayerError::Truncated(_))));
}

#[test]
fn a_tree_is_not_an_archive_of_images() {
    for top in ["etc/x", "./usr/x", "bin"] {
        assert_eq!(listed(&marked().file(top, "").end()).unwrap(), None, "{top}");
    }
    assert_eq!(listed(&Tarball::default().file("index.json", "{}").end()).unwrap(), None);
    assert_eq!(listed(&[0; 1024]).unwrap(), None);
}

proptest! {
    #[test]
    fn arbitrary_bytes_in_an_archive_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..2000),
        kind in any::<u8>(),
        size in any::<u64>(),
    ) {
        let _ = listed(&bytes);
        let header = Raw::new(kind, b"name", size & 0o77_777_777_777).summed();
        let _ = listed(&marked().raw(&header).raw(&bytes).unended());
    }
}

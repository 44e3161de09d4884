use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
};

use tar::{Builder, Header};

use super::*;

/// One entry as a hostile program would write it: any name, any target.
fn entry(kind: EntryType, name: &str, target: &str, mode: u32, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(1_000_000_000);
    header.set_size(u64::try_from(content.len()).unwrap());
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    entry(EntryType::Regular, name, "", 0o644, content)
}

fn link(name: &str, target: &str) -> Vec<u8> {
    entry(EntryType::Symlink, name, target, 0o777, b"")
}

fn into(directory: &Path, entries: &[Vec<u8>]) -> Result<Skipped> {
    let archive = entries.concat();
    unpack_from(&archive[..], open_root(directory)?, false)
}

/// A place with a directory to unpack into and a file beside it that nobody may touch.
fn place() -> (tempfile::TempDir, std::path::PathBuf) {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("secret"), "mine").unwrap();
    let inside = place.path().join("in");
    fs::create_dir(&inside).unwrap();
    (place, inside)
}

#[test]
fn nothing_gets_out_of_the_directory() {
    let absolute = |place: &Path| place.join("secret").to_str().unwrap().to_owned();
    /// Makes the entries of an archive; told where the file is that nobody may touch.
    type Entries = fn(&str) -> Vec<Vec<u8>>;
    let hostile: [(&str, Entries); 9] = [
        ("dotdot", |_| vec![file("../secret", b"x")]),
        ("dotdot in the middle", |_| vec![file("a/../../secret", b"x")]),
        ("absolute", |secret| vec![file(secret, b"x")]),
        ("through a link to a directory", |_| vec![link("l", ".."), file("l/secret", b"x")]),
        ("through a deeper link", |_| vec![link("d/l", "../.."), file("d/l/secret", b"x")]),
        ("a directory through a link", |_| {
            vec![link("l", ".."), entry(EntryType::Directory, "l/new", "", 0o755, b"")]
        }),
        ("a directory that is a link", |_| {
            vec![link("l", ".."), entry(EntryType::Directory, "l", "", 0o777, b"")]
        }),
        ("a hard link out", |_| {
            vec![entry(EntryType::Link, "h", "../secret", 0o644, b""), file("h", b"x")]
        }),
        ("a hard link through a link", |_| {
            vec![link("l", ".."), entry(EntryType::Link, "h", "l/secret", 0o644, b"")]
        }),
    ];
    for (what, entries) in hostile {
        let (place, inside) = place();
        let refused = into(&inside, &entries(&absolute(place.path())));
        assert!(refused.is_err(), "{what}");
        assert_eq!(fs::read_to_string(place.path().join("secret")).unwrap(), "mine", "{what}");
        let names: Vec<_> = fs::read_dir(place.path()).unwrap().collect();
        assert_eq!(names.len(), 2, "{what}: {names:?}");
        assert!(!inside.join("h").exists(), "{what}");
    }
}

#[test]
fn a_file_replaces_a_link_and_does_not_follow_it() {
    let (place, inside) = place();
    into(&inside, &[link("l", "../secret"), file("l", b"new")]).unwrap();
    assert_eq!(fs::read_to_string(place.path().join("secret")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(inside.join("l")).unwrap(), "new");
    assert!(fs::symlink_metadata(inside.join("l")).unwrap().is_file());
    // Links that were there before are no better.
    symlink("..", inside.join("old")).unwrap();
    let error = format!("{:#}", into(&inside, &[file("old/secret", b"x")]).unwrap_err());
    assert!(error.contains("links are not followed"), "{error}");
    // Nor is a file that has another name outside.
    fs::hard_link(place.path().join("secret"), inside.join("twin")).unwrap();
    into(&inside, &[file("twin", b"new")]).unwrap();
    assert_eq!(fs::read_to_string(place.path().join("secret")).unwrap(), "mine");
}

#[test]
fn a_hard_link_inside_is_one() {
    let (_place, inside) = place();
    let again = entry(EntryType::Link, "b", "./a", 0o644, b"");
    into(&inside, &[file("a", b"x"), again.clone(), again]).unwrap();
    let inode = |name| fs::metadata(inside.join(name)).unwrap().ino();
    assert_eq!(inode("a"), inode("b"));
    let to_link = entry(EntryType::Link, "c", "l", 0o644, b"");
    assert!(into(&inside, &[link("l", "/etc/passwd"), to_link]).is_err());
    assert_eq!(fs::read_dir(&inside).unwrap().count(), 3);
}

#[test]
fn devices_are_left_out_and_no_program_becomes_special() {
    let (_place, inside) = place();
    let entries = [
        entry(EntryType::Char, "null", "", 0o666, b""),
        entry(EntryType::Fifo, "pipe", "", 0o666, b""),
        entry(EntryType::Regular, "su", "", 0o6755, b"x"),
        entry(EntryType::Directory, "d", "", 0o7777, b""),
    ];
    let skipped = into(&inside, &entries).unwrap();
    assert_eq!((skipped.count, skipped.names), (2, vec!["null".into(), "pipe".into()]));
    let mode = |name| fs::metadata(inside.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("su"), mode("d")), (0o755, 0o777));
    assert_eq!(fs::metadata(inside.join("su")).unwrap().mtime(), 1_000_000_000);
    assert_eq!(fs::read_dir(&inside).unwrap().count(), 2);
}

#[test]
fn a_directory_that_forbids_writing_is_filled_all_the_same() {
    let (_place, inside) = place();
    let closed = entry(EntryType::Directory, "d/", "", 0o500, b"");
    into(&inside, &[closed, file("d/a", b"x"), file("e/f/g", b"y")]).unwrap();
    let mode = fs::metadata(inside.join("d")).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode, fs::read(inside.join("d/a")).unwrap()), (0o500, b"x".to_vec()));
    assert_eq!(fs::read(inside.join("e/f/g")).unwrap(), b"y");
    fs::set_permissions(inside.join("d"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn what_is_in_the_way_is_said() {
    let (_place, inside) = place();
    fs::create_dir(inside.join("d")).unwrap();
    fs::write(inside.join("f"), "old").unwrap();
    let error = format!("{:#}", into(&inside, &[file("d", b"x")]).unwrap_err());
    assert!(error.contains("a directory is there"), "{error}");
    let nested = file("f/x", b"x");
    let error = format!("{:#}", into(&inside, &[nested]).unwrap_err());
    assert!(error.contains("f is no directory here"), "{error}");
    assert_eq!(fs::read_dir(&inside).unwrap().count(), 2);
}

#[test]
fn an_archive_that_is_cut_or_never_ends_fails() {
    let (_place, inside) = place();
    let mut cut = file("a", &[1; 2000]);
    cut.truncate(1500);
    assert!(into(&inside, &[cut]).is_err());
    assert_eq!(fs::read_dir(&inside).unwrap().count(), 0);
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    let endless = header.as_bytes().as_slice().chain(io::repeat(b'a'));
    let root = open_root(&inside).unwrap();
    let error = format!("{:#}", unpack_from(endless, root, false).unwrap_err());
    assert!(error.contains("too long"), "{error}");
}

#[test]
fn a_tree_survives_the_way_there_and_back() {
    let (place, inside) = place();
    let source = place.path().join("source");
    let long = "n".repeat(120);
    fs::create_dir_all(source.join(&long).join("deep")).unwrap();
    fs::write(source.join(&long).join("deep/file"), [0xff; 5000]).unwrap();
    fs::write(source.join("run"), "#!").unwrap();
    fs::set_permissions(source.join("run"), fs::Permissions::from_mode(0o750)).unwrap();
    fs::set_permissions(&source, fs::Permissions::from_mode(0o711)).unwrap();
    symlink("nowhere", source.join("dangling")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let root = open_root(&inside).unwrap();
    runtime.block_on(async {
        let tree = source.clone();
        let (mut reader, packing) = crate::archive::pack(move |packer| packer.tree(&tree, true));
        let (writer, unpacking) = unpack(root, true);
        let mut piece = vec![0; 1000];
        loop {
            let length = tokio::io::AsyncReadExt::read(&mut reader, &mut piece).await.unwrap();
            if length == 0 {
                break;
            }
            assert!(writer.send(bytes::Bytes::copy_from_slice(&piece[..length])).await);
        }
        writer.finish().await;
        assert_eq!(packing.finish().await.unwrap(), [source.join("socket")]);
        assert_eq!(unpacking.finish().await.unwrap().count, 0);
    });
    assert_eq!(fs::read(inside.join(&long).join("deep/file")).unwrap(), [0xff; 5000]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&inside.join("run")), mode(&inside)), (0o750, 0o711));
    assert_eq!(fs::read_link(inside.join("dangling")).unwrap(), Path::new("nowhere"));
    assert!(!inside.join("socket").exists());
}

#[test]
fn a_cut_pipe_is_not_an_end() {
    let (_place, inside) = place();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (writer, unpacking) = unpack(open_root(&inside).unwrap(), false);
        // Whole entries, so that only the missing last word tells.
        assert!(writer.send(bytes::Bytes::from(file("a", b"x"))).await);
        drop(writer);
        assert!(unpacking.finish().await.is_err());
        let (mut reader, packing) = crate::archive::pack(|packer| {
            packer.file(Path::new("/does/not/exist"), Path::new("x"), None)
        });
        let mut all = Vec::new();
        assert!(tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut all).await.is_err());
        let error = packing.finish().await.unwrap_err().to_string();
        assert!(error.contains("/does/not/exist"), "{error}");
    });
}

#[test]
fn holes_stay_holes() {
    let (_place, inside) = place();
    let path = inside.join("holes");
    let file = File::create(&path).unwrap();
    file.set_len(8 << 20).unwrap();
    let mut archive = Builder::new(Vec::new());
    archive.append_file("back", &mut File::open(&path).unwrap()).unwrap();
    let bytes = archive.into_inner().unwrap();
    assert!(bytes.len() < 1 << 20, "the test's archive is not sparse");
    unpack_from(&bytes[..], open_root(&inside).unwrap(), false).unwrap();
    let back = fs::metadata(inside.join("back")).unwrap();
    assert_eq!(back.len(), 8 << 20);
    assert!(back.blocks() < 1000, "{}", back.blocks());
}

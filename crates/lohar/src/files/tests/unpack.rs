use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use proptest::prelude::*;
use proto::frame::FrameKind;
use proto::message::{ErrorCode, Ownership, Request, Response};
use proto::mux::Session;
use tar::{EntryType, Header};

use super::{code, is_root, names, send};
use crate::testing::{Guest, ask, hear, open};

/// An entry whose name and target are not looked at.
fn entry(kind: EntryType, name: &str, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o4751);
    header.set_uid(4711);
    header.set_gid(4711);
    header.set_mtime(1_000_000_000);
    header.set_size(content.len() as u64);
    let fields = header.as_old_mut();
    fields.name[..name.len()].copy_from_slice(name.as_bytes());
    fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(name: &str, content: &str) -> Vec<u8> {
    entry(EntryType::Regular, name, "", content.as_bytes())
}

fn whole(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut archive = entries.concat();
    archive.resize(archive.len() + 1024, 0);
    archive
}

async fn unpack(host: &Session, archive: &[u8]) -> Result<(), ErrorCode> {
    match send(host, &Request::Unpack { path: "/in/to".to_owned(), owner: None }, archive).await {
        Response::Done => Ok(()),
        other => Err(code(other)),
    }
}

#[tokio::test]
async fn nothing_ends_up_outside() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let outside = guest.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    fs::create_dir_all(guest.path().join("in/to/real")).unwrap();
    let target = outside.to_str().unwrap();
    let link = |name: &str, to: &str| entry(EntryType::Symlink, name, to, b"");
    let hard = |name: &str, to: &str| entry(EntryType::Link, name, to, b"");
    let there = guest.path().join("in/to/there");
    let absolute = outside.join("absolute");
    let hostile = [
        vec![file("../outside/evil", "x")],
        vec![file("real/../../../outside/evil", "x")],
        vec![file(absolute.to_str().unwrap(), "x")],
        vec![link("l", target), file("l/evil", "x")],
        vec![link("l", "../../outside"), file("l/evil", "x")],
        vec![link("l", "../../outside"), entry(EntryType::Directory, "l/evil", "", b"")],
        vec![link("l", "real"), file("l/evil", "x")],
        vec![link("l", "../../outside"), link("m", "l"), file("m/evil", "x")],
        vec![link("l", "../.."), hard("h", "l/outside/secret"), file("h", "x")],
        vec![hard("h", "../../outside/secret")],
        vec![hard("h", outside.join("secret").to_str().unwrap())],
        vec![file("there/evil", "x")],
        vec![entry(EntryType::Char, "null", "", b"")],
        vec![entry(EntryType::Block, "disk", "", b"")],
        vec![entry(EntryType::GNUSparse, "s", "", b"")],
        vec![entry(EntryType::new(b'Q'), "q", "", b"")],
        vec![file("..", "x")],
        vec![file("./", "x"), file(".", "x")],
        vec![entry(EntryType::GNULongName, "n", "", b"../evil"), file("n", "x")],
        vec![entry(EntryType::XHeader, "p", "", b"16 path=../evil\n"), file("p", "x")],
    ];
    for (index, entries) in hostile.iter().enumerate() {
        let _ = symlink(&outside, &there);
        let result = unpack(&host, &whole(entries)).await;
        assert_eq!(result, Err(ErrorCode::Invalid), "archive {index}");
        assert_eq!(names(&outside), ["secret"], "archive {index}");
        assert_eq!(names(guest.path()), ["etc", "in", "outside", "run"], "archive {index}");
        assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "secret");
    }
}

#[tokio::test]
async fn what_is_there_is_replaced_and_never_written_to() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let top = guest.path().join("in/to");
    fs::create_dir_all(top.join("d/sub")).unwrap();
    fs::set_permissions(top.join("d"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(guest.path().join("outside"), "outside").unwrap();
    symlink(guest.path().join("outside"), top.join("link")).unwrap();
    fs::hard_link(guest.path().join("outside"), top.join("hard")).unwrap();
    fs::write(top.join("d/keep"), "keep").unwrap();
    symlink("d", top.join("to-d")).unwrap();
    let archive = whole(&[
        file("link", "new"),
        file("hard", "new"),
        file("d/file", "1"),
        file("d/file", "2"),
        entry(EntryType::Symlink, "d/keep", "nowhere", b""),
        entry(EntryType::Directory, "to-d", "", b""),
        file("to-d/file", "x"),
        entry(EntryType::Fifo, "pipe", "", b""),
        entry(EntryType::Link, "again", "d/file", b""),
        entry(EntryType::Link, "again", "d/file", b""),
        entry(EntryType::Link, "again", "./again", b""),
    ]);
    assert_eq!(unpack(&host, &archive).await, Ok(()));
    assert_eq!(fs::read_to_string(guest.path().join("outside")).unwrap(), "outside");
    for name in ["link", "hard"] {
        assert_eq!(fs::read_to_string(top.join(name)).unwrap(), "new");
        assert!(fs::symlink_metadata(top.join(name)).unwrap().is_file());
    }
    assert_eq!(names(&top.join("d")), ["file", "keep", "sub"]);
    assert!(fs::symlink_metadata(top.join("d/keep")).unwrap().is_symlink());
    assert_eq!(fs::metadata(top.join("d")).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(names(&top.join("to-d")), ["file"]);
    let again = fs::metadata(top.join("again")).unwrap();
    assert_eq!((again.mode() & 0o7777, again.mtime()), (0o4751, 1_000_000_000));
    assert_eq!(fs::read_to_string(top.join("again")).unwrap(), "2");
    let over = whole(&[file("d", "x")]);
    assert_eq!(unpack(&host, &over).await, Err(ErrorCode::IsDirectory));
    let below = whole(&[file("link/x", "x")]);
    assert_eq!(unpack(&host, &below).await, Err(ErrorCode::NotDirectory));
    let entries = whole(&[entry(EntryType::Directory, "d", "", b"")]);
    assert_eq!(unpack(&host, &entries).await, Ok(()));
    assert_eq!(fs::metadata(top.join("d")).unwrap().mode() & 0o7777, 0o4751);
    assert_eq!(names(&top), ["again", "d", "hard", "link", "pipe", "to-d"]);
}

#[tokio::test]
async fn new_entries_belong_to_whom_a_file_there_would() {
    if !is_root() {
        return;
    }
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let top = guest.path().join("in/to");
    fs::create_dir_all(&top).unwrap();
    std::os::unix::fs::chown(&top, Some(77), Some(88)).unwrap();
    fs::create_dir(top.join("tmp")).unwrap();
    fs::set_permissions(top.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(top.join("old"), "").unwrap();
    let archive = whole(&[
        file("a/b/file", "x"),
        entry(EntryType::Symlink, "link", "x", b""),
        file("tmp/file", "x"),
        file("old", "x"),
    ]);
    assert_eq!(unpack(&host, &archive).await, Ok(()));
    let owner = |name: &str| {
        let meta = fs::symlink_metadata(top.join(name)).unwrap();
        (meta.uid(), meta.gid())
    };
    for name in ["a", "a/b", "a/b/file", "link"] {
        assert_eq!(owner(name), (77, 88), "{name}");
    }
    assert_eq!(owner("tmp/file"), (1000, 1000));
    assert_eq!(owner("old"), (0, 0));
    assert_eq!(fs::metadata(top.join("a/b/file")).unwrap().mode() & 0o7777, 0o4751);
}

#[tokio::test]
async fn long_names_come_in_both_ways() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let name = format!("{}/{}", "d".repeat(150), "f\n".repeat(60));
    let pax = |key: &str, value: &str| {
        let rest = format!(" {key}={value}\n");
        let length = (rest.len()..).find(|length| length.to_string().len() + rest.len() == *length);
        format!("{}{rest}", length.unwrap())
    };
    let records = pax("path", &name) + &pax("mtime", "-1.25") + &pax("size", "5");
    let mut sized = file("short", "12345");
    sized[124..136].copy_from_slice(b"00000000000\0");
    let mut header = Header::new_old();
    header.as_mut_bytes().copy_from_slice(&sized[..512]);
    header.set_cksum();
    sized[..512].copy_from_slice(header.as_bytes());
    let archive = whole(&[
        entry(EntryType::XGlobalHeader, "g", "", b"13 comment=x\n"),
        entry(EntryType::XHeader, "p", "", records.as_bytes()),
        sized,
        entry(EntryType::GNULongLink, "././@LongLink", "", &[b'l'; 300]),
        entry(EntryType::GNULongName, "././@LongLink", "", b"long\0"),
        entry(EntryType::Symlink, "short", "short", b""),
    ]);
    assert_eq!(unpack(&host, &archive).await, Ok(()));
    let top = guest.path().join("in/to");
    let meta = fs::metadata(top.join(&name)).unwrap();
    assert_eq!((meta.len(), meta.mtime(), meta.mtime_nsec()), (5, -2, 750_000_000));
    assert_eq!(fs::read_link(top.join("long")).unwrap().as_os_str().len(), 300);
    let huge = entry(EntryType::GNULongName, "n", "", &vec![b'x'; 1024 * 1024 + 1]);
    assert_eq!(unpack(&host, &whole(&[huge])).await, Err(ErrorCode::Invalid));
}

#[tokio::test]
async fn an_archive_that_is_cut_off_is_no_archive() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let archive = whole(&[file("a", "first"), file("b", &"x".repeat(2000))]);
    for length in [0, 100, 512, 515, 1024, 1500, 2100] {
        assert_eq!(unpack(&host, &archive[..length]).await, Err(ErrorCode::Invalid), "{length}");
        assert!(!guest.path().join("in/to/b").exists());
    }
    // All entries are there, but not the mark that there are no more.
    let unmarked = &archive[..archive.len() - 1024];
    assert_eq!(unpack(&host, unmarked).await, Err(ErrorCode::Invalid));
    assert_eq!(
        unpack(&host, b"this is not an archive".repeat(50).as_slice()).await,
        Err(ErrorCode::Invalid)
    );
    // What follows the end does not matter.
    let mut followed = archive.clone();
    followed.extend(vec![9; 300_000]);
    assert_eq!(unpack(&host, &followed).await, Ok(()));
    assert_eq!(names(&guest.path().join("in/to")), ["a", "b"]);
}

#[tokio::test]
async fn a_host_that_vanishes_leaves_no_half_file() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let archive = whole(&[file("a", "first"), file("b", &"x".repeat(900_000))]);
    let request = Request::Unpack { path: "/in/to".to_owned(), owner: None };
    let mut stream = open(&host, &request).await;
    stream.send_data(FrameKind::Data, &archive[..500_000]).await.unwrap();
    tokio::time::timeout(crate::testing::PATIENCE, async {
        while !guest.path().join("in/to/b").exists() {
            ask(&host, &Request::Ping).await;
        }
        drop(stream);
        while guest.path().join("in/to/b").exists() {
            ask(&host, &Request::Ping).await;
        }
    })
    .await
    .unwrap();
    assert!(guest.path().join("in/to/a").exists());
    let mut stream = open(&host, &request).await;
    stream.send_json(&Request::Ping).await.unwrap();
    assert_eq!(code(hear(&mut stream).await), ErrorCode::Invalid);
}

#[tokio::test]
async fn a_full_disk_is_called_that() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let mount = guest.path().join("in");
    fs::create_dir(&mount).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    if rustix::mount::mount("small", &mount, "tmpfs", flags, c"size=256k").is_err() {
        return;
    }
    let archive = whole(&[file("b", &"x".repeat(900_000))]);
    let unpacked = unpack(&host, &archive).await;
    let written = super::write(&host, "/in/file", None, &vec![1; 900_000]).await;
    let removed =
        ask(&host, &Request::FileRemove { path: "/in".to_owned(), recursive: true }).await;
    let left = names(&mount);
    rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(unpacked, Err(ErrorCode::NoSpace));
    assert_eq!(code(written), ErrorCode::NoSpace);
    // A mount point is not removed, and what is mounted there not emptied.
    assert_eq!(code(removed), ErrorCode::Permission);
    assert_eq!(left, ["to"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_damage_is_survived(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        piece in 1_usize..3000,
    ) {
        use super::super::archive::{Archive, Piece};
        let records = b"20 path=some/where/x\n11 size=12\n";
        let mut bytes = whole(&[
            entry(EntryType::XHeader, "p", "", records),
            file("a", &"x".repeat(700)),
            entry(EntryType::GNULongName, "n", "", &[b'y'; 600]),
            file("b", "content"),
        ]);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let (sender, receiver) = tokio::sync::mpsc::channel(10_000);
        for piece in bytes.chunks(piece) {
            sender.try_send(Piece::Data(piece.to_vec())).unwrap_or(());
        }
        sender.try_send(Piece::End).unwrap_or(());
        let mut archive = Archive::new(receiver);
        let mut count = 0;
        while let Ok(Some(_)) = archive.next() {
            count += 1;
            prop_assert!(count < 20);
        }
    }
}

#[tokio::test]
async fn things_belong_to_whom_it_was_said_and_what_is_there_stays() {
    if !is_root() {
        return;
    }
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let to = guest.path().join("in/to");
    fs::create_dir_all(to.join("kept")).unwrap();
    fs::set_permissions(to.join("kept"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(to.join("old"), "x").unwrap();
    symlink("kept", to.join("link")).unwrap();
    let directory = |name: &str| entry(EntryType::Directory, name, "", b"");
    let ask = async |path: &str, owner, archive: &[Vec<u8>]| {
        let request = Request::Unpack { path: path.to_owned(), owner: Some(owner) };
        match send(&host, &request, &whole(archive)).await {
            Response::Done => Ok(()),
            other => Err(code(other)),
        }
    };
    let facts = |path: &str| {
        let meta = fs::symlink_metadata(guest.path().join("in").join(path)).unwrap();
        (meta.uid(), meta.gid(), meta.mode() & 0o7777)
    };
    let tree = [
        directory("./"),
        directory("kept/"),
        file("kept/f", "x"),
        file("old", "y"),
        file("deep/er/f", "x"),
        entry(EntryType::Symlink, "l", "x", b""),
        directory("new/"),
    ];
    ask("/in/to", Ownership::Archive, &tree).await.unwrap();
    assert_eq!(facts("to/kept").2, 0o700, "a directory that is there stays as it is");
    assert_ne!(facts("to").2, 0o4751);
    for made in ["to/kept/f", "to/old", "to/deep/er/f", "to/new"] {
        assert_eq!(facts(made), (4711, 4711, 0o4751), "{made}");
    }
    assert_eq!((facts("to/l").0, facts("to/deep/er")), (4711, (0, 0, 0o755)));
    let of = Ownership::One { owner: "12:13".to_owned() };
    ask("/in/fresh/to", of, &[directory("./"), file("a/f", "x")]).await.unwrap();
    assert_eq!((facts("fresh"), facts("fresh/to")), ((12, 13, 0o755), (12, 13, 0o4751)));
    assert_eq!((facts("fresh/to/a"), facts("fresh/to/a/f")), ((12, 13, 0o755), (12, 13, 0o4751)));
    let refused = ask("/in/to", Ownership::Archive, &[directory("link/")]).await;
    assert_eq!(refused, Err(ErrorCode::NotDirectory));
    assert!(to.join("link").is_symlink());
    let nobody = Ownership::One { owner: "nobody-there".to_owned() };
    assert_eq!(ask("/in/to", nobody, &[]).await, Err(ErrorCode::UnknownUser));
}

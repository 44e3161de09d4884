use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use proto::message::{ErrorCode, FileKind, Request, Response};
use proto::mux::Session;

use super::{code, is_root, names};
use crate::testing::{Guest, ask};

async fn transfer(host: &Session, from: &str, to: &str, replace: bool) -> Result<(), ErrorCode> {
    let (from, to) = (from.to_owned(), to.to_owned());
    result(ask(host, &Request::FileMove { from, to, replace }).await)
}

async fn remove(host: &Session, path: &str, recursive: bool) -> Result<(), ErrorCode> {
    result(ask(host, &Request::FileRemove { path: path.to_owned(), recursive }).await)
}

async fn make(
    host: &Session,
    path: &str,
    mode: Option<u32>,
    parents: bool,
) -> Result<(), ErrorCode> {
    let path = path.to_owned();
    result(ask(host, &Request::MakeDirectory { path, mode, parents }).await)
}

fn result(response: Response) -> Result<(), ErrorCode> {
    match response {
        Response::Done => Ok(()),
        other => Err(code(other)),
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[tokio::test]
async fn a_link_is_described_itself_if_asked() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let file = guest.path().join("file");
    fs::write(&file, "12345").unwrap();
    symlink("file", guest.path().join("link")).unwrap();
    let stat = async |no_follow| {
        let request = Request::FileStat { path: "/link".to_owned(), no_follow };
        match ask(&host, &request).await {
            Response::Stat(stat) => stat,
            other => panic!("{other:?}"),
        }
    };
    let meta = fs::metadata(&file).unwrap();
    let followed = stat(false).await;
    assert_eq!((followed.kind, followed.size, followed.target), (FileKind::File, 5, None));
    assert_eq!((followed.uid, followed.gid), (meta.uid(), meta.gid()));
    assert_eq!(followed.mtime, meta.mtime());
    let itself = stat(true).await;
    assert_eq!((itself.kind, itself.target.as_deref()), (FileKind::Symlink, Some("file")));
}

#[tokio::test]
async fn directories_are_made() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    assert_eq!(make(&host, "/a", None, false).await, Ok(()));
    assert_eq!(make(&host, "/a", None, false).await, Err(ErrorCode::Exists));
    assert_eq!(make(&host, "/a", Some(0o700), true).await, Ok(()));
    assert_eq!(mode(&guest.path().join("a")), 0o755);
    assert_eq!(make(&host, "/x/y/z", Some(0o1777), false).await, Err(ErrorCode::NotFound));
    assert_eq!(make(&host, "/x/y/z/", Some(0o1777), true).await, Ok(()));
    assert_eq!(mode(&guest.path().join("x/y")), 0o755);
    assert_eq!(mode(&guest.path().join("x/y/z")), 0o1777);
    assert_eq!(make(&host, "/", None, true).await, Ok(()));
    assert_eq!(make(&host, "/", None, false).await, Err(ErrorCode::Exists));
    fs::write(guest.path().join("file"), "").unwrap();
    assert_eq!(make(&host, "/file", None, true).await, Err(ErrorCode::NotDirectory));
    assert_eq!(make(&host, "/file/x", None, true).await, Err(ErrorCode::NotDirectory));
    if is_root() {
        // What is new in somebody's directory is theirs.
        std::os::unix::fs::chown(guest.path().join("a"), Some(77), Some(88)).unwrap();
        assert_eq!(make(&host, "/a/b/c", None, true).await, Ok(()));
        let meta = fs::metadata(guest.path().join("a/b/c")).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (77, 88));
    }
}

#[tokio::test]
async fn a_move_renames_and_replaces_only_if_asked() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let at = |name: &str| guest.path().join(name);
    fs::write(at("a"), "a").unwrap();
    fs::write(at("b"), "b").unwrap();
    assert_eq!(transfer(&host, "/a", "/b", false).await, Err(ErrorCode::Exists));
    assert_eq!(transfer(&host, "/a", "/c", false).await, Ok(()));
    assert_eq!(transfer(&host, "/c", "/b", true).await, Ok(()));
    assert_eq!(fs::read_to_string(at("b")).unwrap(), "a");
    assert_eq!(transfer(&host, "/none", "/x", true).await, Err(ErrorCode::NotFound));
    assert_eq!(transfer(&host, "/b", "/none/x", true).await, Err(ErrorCode::NotFound));
    fs::create_dir_all(at("d/e")).unwrap();
    assert_eq!(transfer(&host, "/d", "/d/e/f", false).await, Err(ErrorCode::Invalid));
    assert_eq!(transfer(&host, "/b", "/d", true).await, Err(ErrorCode::IsDirectory));
    assert_eq!(transfer(&host, "/d", "/b", true).await, Err(ErrorCode::NotDirectory));
    fs::create_dir(at("g")).unwrap();
    assert_eq!(transfer(&host, "/g", "/d", true).await, Err(ErrorCode::NotEmpty));
    for odd in ["/", "/d/..", "/d/.", "d"] {
        assert_eq!(transfer(&host, odd, "/x", false).await, Err(ErrorCode::Invalid), "{odd}");
    }
}

/// A directory on another file system than the guest's root, if there is one.
fn elsewhere(guest: &Guest) -> Option<tempfile::TempDir> {
    let other = tempfile::tempdir_in("/dev/shm").ok()?;
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    (device(other.path()) != device(guest.path())).then_some(other)
}

#[tokio::test]
async fn a_tree_is_moved_to_another_file_system_as_it_is() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let Some(other) = elsewhere(&guest) else { return };
    symlink(other.path(), guest.path().join("other")).unwrap();
    let tree = guest.path().join("tree");
    fs::create_dir_all(tree.join("in/side")).unwrap();
    fs::write(tree.join("file"), vec![7; 600_000]).unwrap();
    fs::hard_link(tree.join("file"), tree.join("in/same")).unwrap();
    symlink("../file", tree.join("in/link")).unwrap();
    fs::set_permissions(tree.join("file"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::set_permissions(tree.join("in"), fs::Permissions::from_mode(0o500)).unwrap();
    let sparse = fs::File::create(tree.join("sparse")).unwrap();
    sparse.set_len(100 << 20).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_000_000);
    fs::File::open(tree.join("in")).unwrap().set_modified(old).unwrap();
    if is_root() {
        std::os::unix::fs::lchown(tree.join("in/link"), Some(5), Some(6)).unwrap();
    }
    fs::write(other.path().join("there"), "").unwrap();
    assert_eq!(transfer(&host, "/tree", "/other/there", false).await, Err(ErrorCode::Exists));
    assert_eq!(transfer(&host, "/tree", "/other/there", true).await, Err(ErrorCode::NotDirectory));
    assert_eq!(transfer(&host, "/tree", "/other/moved", false).await, Ok(()));
    assert!(!tree.exists());
    assert_eq!(names(other.path()), ["moved", "there"]);
    let moved = other.path().join("moved");
    assert_eq!(fs::read(moved.join("file")).unwrap(), vec![7; 600_000]);
    let inode = |name: &str| fs::metadata(moved.join(name)).unwrap().ino();
    assert_eq!(inode("file"), inode("in/same"));
    assert_eq!(fs::read_link(moved.join("in/link")).unwrap(), Path::new("../file"));
    assert_eq!((mode(&moved.join("file")), mode(&moved.join("in"))), (0o4711, 0o500));
    assert_eq!(fs::metadata(moved.join("in")).unwrap().modified().unwrap(), old);
    let sparse = fs::metadata(moved.join("sparse")).unwrap();
    assert!(sparse.len() == 100 << 20 && sparse.blocks() < 1000);
    if is_root() {
        assert_eq!(fs::symlink_metadata(moved.join("in/link")).unwrap().uid(), 5);
    }
    // A single file goes the same way, over one that is there.
    fs::write(guest.path().join("file"), "new").unwrap();
    assert_eq!(transfer(&host, "/file", "/other/there", true).await, Ok(()));
    assert_eq!(fs::read_to_string(other.path().join("there")).unwrap(), "new");
    assert_eq!(names(other.path()), ["moved", "there"]);
}

#[tokio::test]
async fn removing_takes_what_was_named_and_nothing_else() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let at = |name: &str| guest.path().join(name);
    fs::create_dir_all(at("keep/sub")).unwrap();
    fs::write(at("keep/file"), "").unwrap();
    fs::create_dir_all(at("tree/a/b/c")).unwrap();
    fs::write(at("tree/a/file"), "").unwrap();
    symlink(at("keep"), at("tree/a/link")).unwrap();
    symlink("../../keep", at("tree/a/b/link")).unwrap();
    symlink(at("tree"), at("to-tree")).unwrap();
    assert_eq!(remove(&host, "/none", false).await, Err(ErrorCode::NotFound));
    assert_eq!(remove(&host, "/tree", false).await, Err(ErrorCode::NotEmpty));
    assert_eq!(remove(&host, "/tree/a/b/c", false).await, Ok(()));
    assert_eq!(remove(&host, "/to-tree", true).await, Ok(()));
    assert_eq!(remove(&host, "/tree/", true).await, Ok(()));
    assert_eq!(remove(&host, "/keep/file", true).await, Ok(()));
    assert_eq!(names(guest.path()), ["etc", "keep", "run"]);
    assert_eq!(names(&at("keep")), ["sub"]);
    for all in ["/", "//", "/.", "/keep/..", "/keep/../.", "keep", ""] {
        assert_eq!(remove(&host, all, true).await, Err(ErrorCode::Invalid), "{all}");
    }
}

#[tokio::test]
async fn a_tree_of_any_depth_and_width_is_removed() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let none = rustix::fs::Mode::empty();
    let top = guest.path().join("deep");
    fs::create_dir(&top).unwrap();
    let mut directory = rustix::fs::open(&top, flags, none).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&directory, "d", rustix::fs::Mode::from_raw_mode(0o700)).unwrap();
        directory = rustix::fs::openat(&directory, "d", flags, none).unwrap();
    }
    for index in 0..5000 {
        rustix::fs::symlinkat("x", &directory, format!("{index}")).unwrap();
    }
    assert_eq!(remove(&host, "/deep", true).await, Ok(()));
    assert!(!top.exists());
}

#[tokio::test]
async fn a_directory_that_becomes_a_link_leads_nowhere() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let outside = guest.path().join("outside");
    fs::create_dir(&outside).unwrap();
    for index in 0..50 {
        fs::write(outside.join(index.to_string()), "").unwrap();
    }
    let tree = guest.path().join("tree");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let swapper = {
        let (tree, outside, stop) = (tree.clone(), outside.clone(), std::sync::Arc::clone(&stop));
        std::thread::spawn(move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = fs::create_dir_all(tree.join("victim"));
                let _ = fs::remove_dir(tree.join("victim"));
                let _ = symlink(&outside, tree.join("victim"));
                let _ = fs::remove_file(tree.join("victim"));
            }
        })
    };
    for _ in 0..200 {
        // Whether it succeeds depends on who is faster.
        let _ = remove(&host, "/tree", true).await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    swapper.join().unwrap();
    assert_eq!(names(&outside).len(), 50);
}

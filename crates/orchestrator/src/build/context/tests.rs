use dockerfile::Source;
use proptest::prelude::*;
use tar::EntryType;
use tokio::sync::mpsc;

use super::*;

/// An entry whose name and target are not looked at.
fn entry(kind: EntryType, name: &str, link: &str, content: &[u8]) -> Vec<u8> {
    let size = content.len() as u64;
    let (name, link) = (name.as_bytes(), link.as_bytes());
    let header = Header { kind, name, link, mode: 0o644, owner: (7, 7), mtime: 1, size };
    [&header.bytes()[..], content, padding(size)].concat()
}

fn file(name: &str, content: &str) -> Vec<u8> {
    entry(EntryType::Regular, name, "", content.as_bytes())
}

fn link(name: &str, to: &str) -> Vec<u8> {
    entry(EntryType::Symlink, name, to, b"")
}

fn directory(name: &str) -> Vec<u8> {
    entry(EntryType::Directory, name, "", b"")
}

async fn sent(bytes: &[u8]) -> Result<Context> {
    let place = tempfile::tempdir().unwrap();
    let mut spool = Spool::begin(place.path().to_owned(), 1 << 20).await?;
    for piece in bytes.chunks(700) {
        spool.write(piece).await?;
    }
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "it has no name");
    spool.finish().await
}

async fn context(entries: &[Vec<u8>]) -> Result<Context> {
    sent(&[&entries.concat()[..], &END].concat()).await
}

fn selection(context: &Context, sources: &[&str]) -> Result<Selection, String> {
    let sources: Vec<Source> =
        sources.iter().map(|path| Source::Path((*path).to_owned())).collect();
    Selection::of(context, &sources, None)
}

/// Names of what is packed, with contents or targets.
fn packed(selection: &Selection, name: Option<&str>) -> Vec<String> {
    let (sender, mut pieces) = mpsc::channel(10_000);
    // It waits for whoever takes what it packs, which a task must not.
    std::thread::scope(|scope| scope.spawn(|| selection.pack(name, &sender)).join())
        .unwrap()
        .unwrap();
    drop(sender);
    let mut bytes = Vec::new();
    while let Ok(piece) = pieces.try_recv() {
        bytes.extend(piece.unwrap());
    }
    let mut archive = tar::Archive::new(&bytes[..]);
    let mut shown = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        assert_eq!((entry.header().uid().unwrap(), entry.header().gid().unwrap()), (0, 0));
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let target = entry.link_name_bytes().map(|to| String::from_utf8_lossy(&to).into_owned());
        let mut content = String::new();
        io::Read::read_to_string(&mut entry, &mut content).unwrap();
        shown.push(format!("{name}={}", target.unwrap_or(content)));
    }
    shown
}

fn names(context: &Context, sources: &[&str]) -> Vec<String> {
    packed(&selection(context, sources).unwrap(), None)
}

#[tokio::test]
async fn what_is_named_is_selected_and_nothing_else() {
    let long = "d/".to_owned() + &"x".repeat(150);
    let context = context(&[
        directory("./"),
        file("./a.txt", "A"),
        file("b.txt", "B"),
        file("d/c.txt", "C"),
        file(&long, "L"),
        file("d-e", "E"),
        link("l", "d/c.txt"),
        link("dir", "/d"),
        link("out", "../../d/../a.txt"),
        link("loop", "loop"),
        link("gone", "nowhere"),
        entry(EntryType::Link, "hard", "a.txt", b""),
    ])
    .await
    .unwrap();
    assert_eq!(names(&context, &["a.txt"]), ["a.txt=A"]);
    assert_eq!(names(&context, &["/./b.txt", "hard"]), ["b.txt=B", "hard=A"]);
    assert_eq!(names(&context, &["*.txt"]), ["a.txt=A", "b.txt=B"]);
    let d = ["./=", "c.txt=C"].map(str::to_owned);
    assert_eq!(names(&context, &["d"])[..2], d);
    assert_eq!(names(&context, &["d"]).len(), 3);
    assert_eq!(names(&context, &["dir/"])[..2], d, "a link to a directory is followed");
    assert_eq!(names(&context, &["l", "out"]), ["l=C", "out=A"], "links stay in the context");
    assert!(
        names(&context, &["."]).contains(&"l=d/c.txt".to_owned()),
        "within a tree they are kept"
    );
    assert_eq!(names(&context, &["d?e", "d*/c.txt"]), ["d-e=E", "c.txt=C"]);
    for nothing in ["x", "loop", "gone", "a.txt/x", "../a.txt", "*.rs", "[", "d/../a.txt"] {
        assert!(selection(&context, &[nothing]).is_err(), "{nothing}");
    }
    let one = selection(&context, &["a.txt"]).unwrap();
    assert_eq!(packed(&one, Some("new")), ["new=A"]);
}

#[tokio::test]
async fn several_things_need_a_directory() {
    let context = context(&[file("a", "A"), file("d/b", "B")]).await.unwrap();
    let place =
        |sources: &[&str], directory| selection(&context, sources).unwrap().place("/x", directory);
    assert_eq!(place(&["a"], false), Ok(Place::File("/x".to_owned())));
    assert_eq!(place(&["a"], true), Ok(Place::Directory("/x".to_owned())));
    assert_eq!(place(&["d"], false), Ok(Place::Directory("/x".to_owned())));
    assert!(place(&["a", "d"], false).is_err());
    assert!(place(&["a", "d"], true).is_ok());
}

#[tokio::test]
async fn the_hash_is_another_whenever_what_is_copied_is() {
    let hash = async |entries: &[Vec<u8>], sources: &[&str]| {
        selection(&context(entries).await.unwrap(), sources).unwrap().hash().unwrap()
    };
    let base = hash(&[file("a", "A"), file("z", "1")], &["a"]).await;
    assert_eq!(base, hash(&[file("z", "2"), file("a", "A")], &["a"]).await);
    let mut touched = Header {
        kind: EntryType::Regular,
        name: b"a",
        link: b"",
        mode: 0o644,
        owner: (1, 2),
        mtime: 999,
        size: 1,
    };
    let whole = |header: &Header<'_>| [&header.bytes()[..], b"A", padding(1)].concat();
    assert_eq!(base, hash(&[whole(&touched)], &["a"]).await, "time and owner are nothing");
    touched.mode = 0o755;
    assert_ne!(base, hash(&[whole(&touched)], &["a"]).await);
    assert_ne!(base, hash(&[file("a", "B")], &["a"]).await);
    assert_ne!(base, hash(&[file("b", "A")], &["b"]).await);
    assert_ne!(base, hash(&[link("a", "b"), file("b", "A")], &["."]).await);
}

#[tokio::test]
async fn what_has_no_place_in_a_tree_is_refused() {
    for hostile in [
        vec![file("/etc/passwd", "x")],
        vec![file("../x", "x")],
        vec![file("a/../../x", "x")],
        vec![link("l", "/etc"), file("l/x", "x")],
        vec![file("f", "x"), file("f/x", "x")],
        vec![file("d/x", "x"), file("d", "x")],
        vec![entry(EntryType::Link, "h", "/etc/passwd", b"")],
        vec![entry(EntryType::Link, "h", "nothing", b"")],
        vec![entry(EntryType::Char, "null", "", b"")],
        vec![entry(EntryType::Fifo, "pipe", "", b"")],
        vec![file("", "x")],
        vec![b"no archive, but as long as a header is".repeat(20)],
    ] {
        let refused = context(&hostile).await.unwrap_err();
        assert_eq!(refused.kind, Kind::BuildInvalid, "{refused}");
    }
    let cut = file("a", "A");
    assert_eq!(sent(&cut[..512]).await.unwrap_err().kind, Kind::BuildInvalid);
    assert_eq!(sent(&cut).await.unwrap_err().kind, Kind::BuildInvalid, "its end is missing");
    let large = vec![0; (1 << 20) + 1];
    assert_eq!(sent(&large).await.unwrap_err().kind, Kind::TooLarge);
    assert!(selection(&sent(b"").await.unwrap(), &["."]).is_ok(), "there may be nothing");
}

#[tokio::test]
async fn a_name_of_any_length_does_not_take_memory() {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    let refused = sent(&[&header.as_bytes()[..], &[b'x'; 1024]].concat()).await.unwrap_err();
    assert_eq!(refused.kind, Kind::BuildInvalid);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damage_is_survived(at in 0_usize..3000, byte: u8, length in 0_usize..3600) {
        let mut bytes =
            [directory("d/"), file("d/a", "A"), link("l", "d"), END.to_vec()].concat();
        let place = at % bytes.len();
        bytes[place] = byte;
        bytes.truncate(length);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            if let Ok(context) = sent(&bytes).await {
                for source in [".", "d/a", "l", "*"] {
                    if let Ok(selection) = selection(&context, &[source]) {
                        let _ = selection.hash();
                    }
                }
            }
        });
    }
}

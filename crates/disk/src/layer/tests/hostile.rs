//! Archives that are meant to do harm. Whatever they say, nothing but the store changes, and what
//! is refused leaves nothing in it either.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use fs_err as fs;
use proptest::prelude::*;

use super::{
    Tarball,
    tarball::Raw,
    whole::{assemble, disk},
};
use crate::{
    erofs::tests::read,
    image::{self, Config, ImageError, is_digest},
    layer::{self, LayerError, LayerId, Limits},
};

/// Keeps what a test tries, if somebody wants it to begin with: see `scripts/fuzz.sh`.
pub(crate) fn tried(target: &str, bytes: &[u8]) {
    let Ok(directory) = std::env::var("BHATTI_FUZZ_TRIED") else { return };
    let directory = Path::new(&directory).join(target);
    fs::create_dir_all(&directory).unwrap();
    if bytes.len() <= 1 << 16 {
        fs::write(directory.join(base::hash::bytes(bytes)), bytes).unwrap();
    }
}

/// A store in a directory with other things around it.
pub(super) struct House {
    directory: tempfile::TempDir,
    before: BTreeMap<PathBuf, Vec<u8>>,
}

const SMALL: Limits = Limits { bytes: 4 << 20, entries: 2000, name_bytes: 1 << 20 };

impl House {
    pub(super) fn new() -> Self {
        // In memory, because thousands of them are made and flushed.
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let directory = tempfile::tempdir_in(place).unwrap();
        fs::create_dir(directory.path().join("outside")).unwrap();
        fs::write(directory.path().join("outside/canary"), "alive").unwrap();
        fs::write(directory.path().join("canary"), "alive").unwrap();
        let before = everything(directory.path());
        Self { directory, before }
    }

    fn outside(&self) -> PathBuf {
        self.directory.path().join("outside")
    }

    pub(super) fn data(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    pub(super) fn add(&self, archive: &[u8]) -> Result<LayerId, LayerError> {
        tried("layer", archive);
        let added = layer::add(&self.data(), &mut &*archive, None, &SMALL);
        self.check(added.is_ok());
        added
    }

    /// Adds a layer that is well-formed, and makes an image of it.
    pub(super) fn image(&self, archive: &[u8]) -> Result<Vec<String>, ImageError> {
        let id = self.add(archive)?;
        let made = image::assemble(&self.data(), &[id], Config::default(), String::new());
        self.check(true);
        Ok(read(&disk(&made?)).keys().map(|path| String::from_utf8_lossy(path).into()).collect())
    }

    /// Nothing changed but the store, which has nothing but what belongs there.
    fn check(&self, stored: bool) {
        let mut now = everything(self.directory.path());
        now.retain(|path, _| !path.starts_with("store"));
        assert!(now == self.before, "{:?}", now.keys());
        let mut layers = 0;
        for path in everything(&self.data()).keys() {
            let parts: Vec<_> = path.iter().map(|part| part.to_str().unwrap()).collect();
            match parts[..] {
                ["images"] | ["images", "layers" | "content"] => {}
                ["images", kind @ ("layers" | "content"), digest] if is_digest(digest) => {
                    layers += usize::from(kind == "layers");
                }
                ["images", "layers", _, "manifest.json" | "index" | "small" | "data"] => {}
                ["images", "content", _, "manifest.json" | "root.erofs"] => {}
                _ => panic!("{path:?} does not belong there"),
            }
        }
        assert!(stored || layers == 0, "something of it stayed");
    }
}

/// All files below a directory with their content.
fn everything(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries {
            let (path, kind) =
                entry.map(|entry| (entry.path(), entry.file_type().unwrap())).unwrap();
            let content = if kind.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            if kind.is_dir() {
                left.push(path.clone());
            }
            all.insert(path.strip_prefix(root).unwrap().to_owned(), content);
        }
    }
    all
}

fn refused(archive: &[u8], expected: &str) {
    let error = House::new().add(archive).unwrap_err();
    assert!(error.to_string().contains(expected), "{error}");
    assert!(error.hint().is_some() && error.is_of_the_image());
    assert!(!error.to_string().contains(['\n', '\x1b', '\0']));
}

#[test]
fn names_that_lead_out_are_refused() {
    let tar = Tarball::default;
    for name in ["../x", "a/../../x", "..", "a/..", "../../../../../../../../etc/x"] {
        refused(&tar().file(name, "harm").end(), "leads upwards");
        refused(
            &tar().pax(&[("path", name.as_bytes())]).file("fine", "harm").end(),
            "leads upwards",
        );
        refused(
            &tar().entry(b'L', "long", name.as_bytes()).file("fine", "harm").end(),
            "leads upwards",
        );
        refused(&tar().file("a", "").hard_link("b", name).end(), "its target is not in the image");
        let long = tar().file("a", "").pax(&[("linkpath", name.as_bytes())]).hard_link("b", "a");
        refused(&long.end(), "its target is not in the image");
    }
    for (name, reason) in [
        (".wh.", "whiteout of no name"),
        (".wh..", "whiteout of no name"),
        (".wh...", "whiteout of no name"),
        ("a/.wh...", "whiteout of no name"),
        (".wh.a/b", "nothing below it"),
        (".wh.../canary", "nothing below it"),
    ] {
        refused(&tar().file(name, "").end(), reason);
    }
    refused(&tar().pax(&[("path", b"a\0b")]).file("fine", "").end(), "zero byte");
    refused(&tar().pax(&[("linkpath", b"a\0b")]).symlink("fine", "x").end(), "zero byte");
    refused(&tar().pax(&[("path", &[b'n'; 256])]).file("fine", "").end(), "longer than 255");
    refused(
        &tar().pax(&[("path", &b"n/".repeat(3000))]).file("fine", "").end(),
        "longer than 4096",
    );
    refused(&tar().pax(&[("path", &b"n/".repeat(600))]).file("fine", "").end(), "512 directories");
    refused(&tar().pax(&[("linkpath", &[b'n'; 5000])]).symlink("fine", "x").end(), "4095");
    refused(&tar().symlink("fine", "").end(), "its target is empty");
    refused(&tar().file("", "the root").file("\x1b[2J/../x", "").end(), "leads upwards");
}

#[test]
fn what_means_a_place_on_the_host_elsewhere_is_below_the_root_of_the_image_here() {
    let house = House::new();
    let outside = house.outside();
    let canary = outside.join("canary").display().to_string();
    let at_root = canary.trim_start_matches('/').to_owned();
    let tar = Tarball::default;
    let named = |archive: Tarball, name: &str| {
        let house = House::new();
        let names = house.image(&archive.end()).unwrap();
        assert!(names.iter().any(|found| found == name), "{names:?}");
    };
    named(tar().file(&canary, "dead"), &at_root);
    named(tar().file(&format!("///{canary}"), "dead"), &at_root);
    let out = outside.display().to_string();
    named(tar().symlink("a", &out).file("a/canary", "dead"), &at_root);
    let up = format!("{}{out}", "../".repeat(20));
    named(tar().symlink("a", &up).symlink("b", "a").file("b/canary", "dead"), &at_root);
    named(tar().symlink("a", &canary).file("a", "dead"), "a");
    named(tar().symlink("a", &out).directory("a/").file("a/canary", ""), "a/canary");
    named(tar().symlink("a", &out).file("a/.wh.canary", ""), "a");
    named(tar().symlink("a", &out).file("a/.wh..wh..opq", ""), "a");
    named(tar().file(&format!("{out}/.wh.canary"), "").file("x", ""), "x");
    named(tar().file("x", "").hard_link(&canary, "x"), &at_root);
    let dead = house.image(&tar().hard_link("a", &canary).end()).unwrap_err();
    assert!(matches!(&dead, ImageError::Layer(LayerError::Link { .. })), "{dead}");
    let later = House::new().image(&tar().hard_link("a", "b").file("b", "").end()).unwrap_err();
    assert!(later.to_string().contains("so far"), "{later}");
    let link = House::new().image(&tar().directory("d/").hard_link("a", "d").end()).unwrap_err();
    assert!(link.to_string().contains("is a directory"), "{link}");
    let root = House::new().image(&tar().symlink("./", "/etc").end()).unwrap_err();
    assert!(root.to_string().contains("root can only be a directory"), "{root}");
}

#[test]
fn devices_are_inodes_of_the_image_and_nothing_of_the_host() {
    let device = |kind, major: &[u8], minor: &[u8]| {
        let raw = Raw::new(kind, b"dev/x", 0).set(329, major).set(337, minor);
        Tarball::default().header(raw, b"").end()
    };
    let house = House::new();
    let id = house.add(&device(b'b', b"0000010\0", b"0000000\0")).unwrap_err();
    assert!(id.to_string().contains("a kind that is not known"));
    let id = house.add(&device(b'4', b"0000403\0", b"0210560\0")).unwrap();
    let found = read(&disk(&assemble(&house.data(), &[id])));
    assert_eq!(
        found[b"dev/x".as_slice()].device,
        259 << 8 | (70000 & 0xff) | (70000 & !0xff) << 12
    );
    refused(&device(b'3', b"0010000\0", b"0000000\0"), "device number is too large");
    refused(&device(b'3', b"0000001\0", b"4000000\0"), "device number is too large");
    refused(&device(b'3', b"\xff\xff\xff\xff\xff\xff\xff\xff", b"0000001\0"), "device number");
}

#[test]
fn numbers_that_lie_are_refused() {
    let with = |at, field: &[u8]| {
        let raw = Raw::new(b'0', b"f", 0).set(at, field);
        Tarball::default().header(raw, b"").end()
    };
    refused(&with(124, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), "size is negative");
    refused(&with(124, b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"), "content is not complete");
    refused(&with(124, b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), "size is no number");
    refused(&with(124, b"77777777777\0"), "content is not complete");
    refused(&with(124, b"-0000000001\0"), "size is no number");
    refused(&with(108, b"\xff\xff\xff\xff\xff\xff\xff\xff"), "owner is too large or negative");
    refused(&with(116, b"\x80\0\0\0\xff\xff\xff\xff"), "group is too large or negative");
    refused(&with(100, b"rw-r--r-"), "mode is no number");
    let told = |key: &str, value: &str| {
        Tarball::default().pax(&[(key, value.as_bytes())]).file("f", "").end()
    };
    refused(&told("size", "-1"), "size is negative");
    refused(&told("size", "9223372036854775807"), "content is not complete");
    refused(&told("size", "99999999999999999999"), "a number in its extended header");
    refused(&told("uid", "4294967295"), "owner is too large");
    refused(&told("mtime", "now"), "a time in its extended header");
    refused(&told("GNU.sparse.major", "1"), "sparse");
    refused(&Tarball::default().entry(b'S', "f", b"").end(), "sparse");
    // A mode says nothing about the kind.
    let raw = Raw::new(b'0', b"f", 0).set(100, b"0177777\0");
    let house = House::new();
    let id = house.add(&Tarball::default().header(raw, b"").end()).unwrap();
    let found = read(&disk(&assemble(&house.data(), &[id])));
    assert_eq!(found[b"f".as_slice()].mode, 0o107_777);
}

#[test]
fn what_grows_without_end_is_cut_off() {
    let gzip = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zeros = vec![0; 8 << 20];
    let bomb = Tarball::default().file("bomb", &zeros).end();
    refused(&bomb, "more than 4194304 bytes");
    refused(&gzip(&bomb), "more than 4194304 bytes");
    // Behind the end of the archive too.
    let behind = [Tarball::default().file("f", "").end(), zeros].concat();
    refused(&gzip(&behind), "more than 4194304 bytes");
    let many = (0..2001).fold(Tarball::default(), |tar, n| tar.file(&n.to_string(), ""));
    refused(&many.end(), "more than 2000 entries");
    let ignored = (0..2001).fold(Tarball::default(), |tar, _| tar.file(".wh..wh.plnk/x", ""));
    refused(&ignored.end(), "more than 2000 entries");
    let name = format!("{}f", "n/".repeat(500));
    let long = (0..1500).fold(Tarball::default(), |tar, _| tar.symlink("l", &name));
    refused(&long.end(), "bytes of names");
    let large = vec![b'x'; (1 << 20) + 1];
    refused(
        &Tarball::default().pax(&[("comment", &large)]).file("f", "").end(),
        "larger than 1 MiB",
    );
    refused(&Tarball::default().entry(b'L', "x", &large).file("f", "").end(), "larger than 1 MiB");
    let value = vec![b'v'; 70_000];
    let attributes = Tarball::default().pax(&[("SCHILY.xattr.user.x", &value)]).file("f", "");
    refused(&attributes.end(), "attributes are larger");
    let attribute = format!("SCHILY.xattr.user.{}", "n".repeat(300));
    refused(
        &Tarball::default().pax(&[(&attribute, b"")]).file("f", "").end(),
        "attribute is too long",
    );
    // Extended headers alone are entries of nothing.
    let headers = (0..3000).fold(Tarball::default(), |tar, _| tar.pax(&[("comment", b"x")]));
    refused(&headers.end(), "belongs to no entry");
}

#[test]
fn what_is_no_archive_is_told_from_a_damaged_one() {
    refused(b"", "the archive's end is missing");
    refused(b"hello", "a header is not complete");
    refused(&[b'x'; 2048], "no tar header at byte 0");
    refused(b"\xfd7zXZ\0 and so on", "compressed with xz");
    refused(b"BZh91AY", "compressed with bzip2");
    refused(b"\x1f\x8b\x08 and nothing that would follow it", "gzip stream is damaged");
    refused(b"\x28\xb5\x2f\xfd and nothing that would follow it", "zstd stream is damaged");
    refused(&[b"\x50\x2a\x4d\x18".as_slice(), &[0xff; 40]].concat(), "not complete");
    let file = Tarball::default().file("f", "content");
    refused(&file.clone().raw(&[0; 512]).raw(&[b'x'; 512]).unended(), "one block of zeros");
    refused(&file.clone().unended(), "the archive's end is missing");
    let archive = file.unended();
    let id: LayerId = base::hash::bytes(&archive).parse().unwrap();
    let house = House::new();
    layer::add(&house.data(), &mut &*archive, Some(&id), &SMALL).unwrap();
    let other = Tarball::default().file("g", "").end();
    for _ in 0..2 {
        let error = layer::add(&house.data(), &mut &*other, Some(&id), &SMALL).unwrap_err();
        assert!(matches!(error, LayerError::Digest { .. }), "{error}");
        house.check(true);
    }
    for text in ["", "x", "../../x", &"A".repeat(64), &format!("sha512:{id}")] {
        assert!(matches!(text.parse::<LayerId>(), Err(LayerError::BadId(_))));
    }
    assert_eq!(format!("sha256:{id}").parse::<LayerId>().unwrap(), id);
}

/// An archive with everything in it.
pub(super) fn sample() -> Vec<u8> {
    let long = "directory/".repeat(20);
    Tarball::default()
        .entry(b'g', "global", b"13 comment=x\n")
        .directory("./")
        .directory("d/")
        .file("d/small", "content")
        .file("d/large", vec![7; 5000])
        .pax(&[("mtime", b"12.5"), ("SCHILY.xattr.user.a", b"value")])
        .file("d/more", vec![9; 1500])
        .entry(b'L', "long", format!("{long}f\0").as_bytes())
        .file("short", "long")
        .symlink("d/link", "small")
        .hard_link("d/hard", "d/small")
        .header(Raw::new(b'3', b"null", 0).set(329, b"0000001\0").set(337, b"0000003\0"), b"")
        .entry(b'6', "fifo", b"")
        .file("d/.wh.gone", "")
        .file("e/.wh..wh..opq", "")
        .end()
}

#[test]
fn an_archive_that_was_cut_off_anywhere_is_refused() {
    let whole = sample();
    let house = House::new();
    assert!(house.image(&whole).is_ok());
    for length in (0..whole.len() - 512).step_by(512) {
        for length in [length, length + 1, length + 300] {
            let error = House::new().add(&whole[..length]).unwrap_err();
            assert!(matches!(error, LayerError::Truncated(_)), "{length}: {error}");
        }
    }
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&whole).unwrap();
    let gzip = gzip.finish().unwrap();
    for length in 2..gzip.len() - 1 {
        let error = House::new().add(&gzip[..length]).unwrap_err();
        assert!(matches!(error, LayerError::Truncated(_)), "{length}: {error}");
    }
}

/// A source that fails in the middle.
struct Broken<'a>(&'a [u8]);

impl std::io::Read for Broken<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(&mut buffer[..1])? {
            0 => Err(std::io::ErrorKind::ConnectionReset.into()),
            read => Ok(read),
        }
    }
}

#[test]
fn a_source_that_fails_is_not_called_a_damaged_layer() {
    let house = House::new();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&sample()).unwrap();
    for archive in [sample(), gzip.finish().unwrap()] {
        for length in [0, 3, 100, archive.len() - 20] {
            let mut broken = Broken(&archive[..length]);
            let error = layer::add(&house.data(), &mut broken, None, &SMALL).unwrap_err();
            assert!(matches!(error, LayerError::Source(_)), "{length}: {error}");
            house.check(false);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn flipped_bits_do_no_harm(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 0..8u8), 1..4),
        summed in any::<bool>(),
    ) {
        let mut archive = sample();
        for (at, bit) in flips {
            let at = at.index(archive.len());
            archive[at] ^= 1 << bit;
            if summed {
                // Otherwise most changes of headers would only be found by their checksum.
                let block = &mut archive[at / 512 * 512..][..512];
                let header = Raw(block.try_into().unwrap()).summed();
                block.copy_from_slice(&header);
            }
        }
        let _ = House::new().image(&archive);
    }
}

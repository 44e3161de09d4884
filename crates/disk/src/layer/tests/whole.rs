//! From archives to a file system that the tools of erofs agree with.

use std::{
    collections::BTreeMap,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use base::process::Command;
use fs_err as fs;

use super::Tarball;
use crate::{
    erofs::tests::{Found, read},
    image::{self, Config, Image},
    layer::{self, LayerId, Limits},
};

pub(super) fn add(data: &Path, archive: &[u8]) -> LayerId {
    layer::add(data, &mut &*archive, None, &Limits::default()).unwrap()
}

pub(super) fn assemble(data: &Path, layers: &[LayerId]) -> Image {
    image::assemble(data, layers, Config::default(), "test".to_owned()).unwrap()
}

/// The root disk as one file.
pub(super) fn disk(image: &Image) -> Vec<u8> {
    let parts: Vec<_> = image.files().iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(parts.iter().all(|part| part.len() % 4096 == 0));
    parts.concat()
}

fn tool(program: &str, arguments: &[&str], path: &Path) -> String {
    let out = Command::new(program).args(arguments).arg(path).output().unwrap();
    String::from_utf8_lossy(&out).into_owned()
}

/// Has erofs-utils check the image and write its files below the returned directory.
fn extracted(image: &Image, at: &Path) -> PathBuf {
    let path = at.join("disk");
    fs::write(&path, disk(image)).unwrap();
    let out = at.join("extracted");
    tool("fsck.erofs", &[&format!("--extract={}", out.display()), "--preserve"], &path);
    tool("dump.erofs", &["-S"], &path);
    fs::remove_file(path).unwrap();
    out
}

#[test]
fn files_of_all_sizes_come_out_as_they_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = [0, 1, 100, 1023, 1024, 1025, 4095, 4096, 4097, 8192, 100_000];
    let content = |size: usize| (0..=250).cycle().skip(size % 7).take(size).collect::<Vec<u8>>();
    let mut lower = Tarball::default().directory("d/");
    for size in sizes {
        lower = lower.file(&format!("d/{size}"), content(size));
    }
    let upper = Tarball::default().file("d/4096", "new").file("e/f/g", content(5000));
    let layers = [add(dir.path(), &lower.end()), add(dir.path(), &upper.end())];
    let image = assemble(dir.path(), &layers);
    assert_eq!(image.files().len(), 3);
    let out = extracted(&image, dir.path());
    for size in sizes {
        let expected = if size == 4096 { b"new".to_vec() } else { content(size) };
        assert!(fs::read(out.join(format!("d/{size}"))).unwrap() == expected, "{size}");
    }
    assert!(fs::read(out.join("e/f/g")).unwrap() == content(5000));
    let again = assemble(dir.path(), &layers);
    assert_eq!(again, image);
}

/// What `lstat` and `read` say of everything below a directory.
fn listed(root: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let content = if kind.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        } else if kind.is_symlink() {
            format!("{:?}", fs::read_link(&path).unwrap())
        } else if kind.is_file() {
            base::hash::file(&path).unwrap()
        } else if kind.is_fifo() {
            String::new()
        } else {
            meta.rdev().to_string()
        };
        // fsck.erofs sets owners last, which takes the bits for set-user-id and set-group-id.
        let mode = if kind.is_file() { meta.mode() & !0o6000 } else { meta.mode() };
        let (uid, gid) = (meta.uid(), meta.gid());
        let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        all.insert(name, format!("{mode:o} {uid} {gid} {content}"));
    }
    all
}

fn different(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>) -> Vec<String> {
    let names = one.keys().chain(other.keys()).filter(|name| one.get(*name) != other.get(*name));
    names.map(|name| format!("{name}: {:?}, {:?}", one.get(name), other.get(name))).collect()
}

/// A tree with everything that a file system has, if made by root.
fn tree(root: &Path) {
    let script = r#"
        mkdir -p "$0/usr/bin" "$0/etc" "$0/dev" "$0/long" "$0/many" && cd "$0" || exit
        head -c 300000 /dev/urandom > usr/bin/tool; chmod 4755 usr/bin/tool
        printf small > etc/small; chmod 640 etc/small
        : > etc/empty; chmod 2755 usr/bin; chmod 1777 etc
        ln etc/small etc/second; ln usr/bin/tool tool
        ln -s ../etc/small usr/small; ln -s /nowhere/at/all dangling
        name=$(printf 'n%.0s' $(seq 255)); mkdir -p "long/$name/$name"; echo deep > "long/$name/$name/f"
        ln -s "$name/$name" long/link; ln "long/$name/$name/f" long/hard
        for n in $(seq 1 700); do echo $n > many/a-file-with-some-name-$n; done
        touch -d '1969-07-20 20:17:40.5' etc/empty
        touch "$(printf 'latin-\351')"
        if [ "$(id -u)" = 0 ]; then
            mknod dev/null c 1 3; mknod dev/disk b 259 70000; chown 100000:3000000 etc/small
        fi
        mkfifo dev/pipe
    "#;
    Command::new("sh").args(["-euc", script]).arg(root).output().unwrap();
}

#[test]
fn an_image_has_what_tar_would_unpack_whatever_wrote_and_packed_the_archive() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    tree(&root);
    let mut ids = Vec::new();
    for format in ["pax", "gnu", "oldgnu"] {
        let archive = dir.path().join("archive");
        let options = [format!("--format={format}"), "--sort=name".to_owned()];
        let (place, what) = (root.display().to_string(), ["-C", "."]);
        let tar = Command::new("tar").args(options).arg("-cf").arg(&archive);
        tar.args([what[0], &place, what[1]]).output().unwrap();
        let unpacked = dir.path().join(format);
        fs::create_dir(&unpacked).unwrap();
        Command::new("tar").arg("-xpf").arg(&archive).arg("-C").arg(&unpacked).output().unwrap();

        let data = dir.path().join(format!("data-{format}"));
        let plain = fs::read(&archive).unwrap();
        let id = add(&data, &plain);
        assert_eq!(id.as_str(), base::hash::bytes(&plain));
        for packer in [["gzip", "-1c"], ["zstd", "-qc"]] {
            let packed = Command::new(packer[0]).arg(packer[1]).arg(&archive).output().unwrap();
            assert_eq!(add(&data, &packed), id);
            let twice = [packed.as_slice(), &packed].concat();
            let other = add(&data, &twice);
            assert_eq!(other.as_str(), base::hash::bytes(&[plain.as_slice(), &plain].concat()));
        }
        let image = assemble(&data, std::slice::from_ref(&id));
        let out = extracted(&image, &data);
        assert_eq!(different(&listed(&out), &listed(&unpacked)), [""; 0], "{format}");
        check_details(&read(&disk(&image)), &unpacked);
        ids.push((data, id));
    }
    exports_are_equal(&ids[0].0, &ids[0].1);
}

/// What erofs-utils does not extract: links, times, and the bits that go when owners are set.
fn check_details(found: &BTreeMap<Vec<u8>, Found>, unpacked: &Path) {
    let mut inodes = BTreeMap::new();
    for (path, found) in found {
        let name = unpacked.join(std::ffi::OsStr::from_bytes(path));
        let meta = fs::symlink_metadata(&name).unwrap();
        assert_eq!(u32::from(found.mode), meta.mode(), "{name:?}");
        let part = meta.mtime_nsec().try_into().unwrap();
        assert_eq!(found.mtime, (meta.mtime(), part), "{name:?}");
        if !meta.is_dir() {
            assert_eq!(u64::from(found.links), meta.nlink(), "{name:?}");
            assert_eq!(*inodes.entry(meta.ino()).or_insert(found.slot), found.slot);
        }
    }
}

/// A layer that is exported and added again is the same to an image, and is exported as the same
/// bytes.
fn exports_are_equal(data: &Path, id: &LayerId) {
    let mut archive = Vec::new();
    layer::export(data, id, &mut archive).unwrap();
    let again = add(data, &archive);
    let mut second = Vec::new();
    layer::export(data, &again, &mut second).unwrap();
    assert!(archive == second);
    let images = [id, &again].map(|id| read(&disk(&assemble(data, std::slice::from_ref(id)))));
    assert!(images[0] == images[1]);
    let path = data.join("exported");
    fs::write(&path, archive).unwrap();
    assert!(tool("tar", &["tf"], &path).contains("usr/bin/tool"));
}

#[test]
fn attributes_of_every_size_are_kept_if_they_mean_something_in_a_guest() {
    let dir = tempfile::tempdir().unwrap();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let large = vec![b'v'; 5000];
    let archive = Tarball::default()
        .pax(&[
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.security.selinux", b"no"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.", b"no name"),
            ("SCHILY.xattr.user.b", b""),
            ("SCHILY.xattr.user.a", b"\0binary\n"),
        ])
        .file("ping", vec![7; 2000])
        .pax(&[("SCHILY.xattr.user.large", &large)])
        .file("small", "content")
        .pax(&[("SCHILY.xattr.user.large", &large)])
        .symlink("link", "to/somewhere")
        .pax(&[("SCHILY.xattr.user.large", &large[..3900])])
        .directory("d/")
        .file("d/a-file-whose-name-takes-up-what-is-left-of-the-block-of-its-directory-or-more", "")
        .file(
            "d/another-file-whose-name-takes-up-what-is-left-of-the-block-of-its-directory-or-more",
            "",
        );
    let image = assemble(dir.path(), &[add(dir.path(), &archive.end())]);
    let found = read(&disk(&image));
    let of = |path: &str| &found[path.as_bytes()];
    let ping = [
        (b"security.capability".to_vec(), capability.to_vec()),
        (b"user.a".to_vec(), b"\0binary\n".to_vec()),
        (b"user.b".to_vec(), Vec::new()),
    ];
    assert_eq!(of("ping").xattrs, ping);
    assert_eq!(of("small").xattrs[0].1, large);
    assert_eq!(of("small").content, b"content");
    assert_eq!(of("link").content, b"to/somewhere");
    assert_eq!(of("link").mode, 0o120_777);
    assert_eq!(of("link").xattrs[0].1, large);
    extracted(&image, dir.path());
}

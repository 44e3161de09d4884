//! From archives to a file system that the tools of erofs agree with.

use std::path::{Path, PathBuf};

use base::process::Command;
use fs_err as fs;

use super::Tarball;
use crate::{
    image::{self, Config, Image},
    layer::{self, LayerId, Limits},
};

fn add(data: &Path, archive: &[u8]) -> LayerId {
    layer::add(data, &mut &*archive, None, &Limits::default()).unwrap()
}

fn assemble(data: &Path, layers: &[LayerId]) -> Image {
    image::assemble(data, layers, Config::default(), "test".to_owned()).unwrap()
}

/// The root disk as one file.
fn disk(image: &Image, at: &Path) -> PathBuf {
    let parts: Vec<_> = image.files().iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(parts.iter().all(|part| part.len() % 4096 == 0));
    let path = at.join("disk");
    fs::write(&path, parts.concat()).unwrap();
    path
}

fn fsck(disk: &Path, arguments: &[&str]) -> String {
    let out = Command::new("fsck.erofs").args(arguments).arg(disk).output().unwrap();
    String::from_utf8_lossy(&out).into_owned()
}

#[test]
fn files_of_all_sizes_come_out_as_they_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = [0, 1, 100, 1023, 1024, 1025, 4095, 4096, 4097, 8192, 100_000];
    let content = |size: usize| (0..size).map(|n| (n * 7 + size) as u8).collect::<Vec<_>>();
    let mut lower = Tarball::default().directory("d/");
    for size in sizes {
        lower = lower.file(&format!("d/{size}"), content(size));
    }
    let upper = Tarball::default().file("d/4096", "new").file("e/f/g", content(5000));
    let layers = [add(dir.path(), &lower.end()), add(dir.path(), &upper.end())];
    let image = assemble(dir.path(), &layers);
    let disk = disk(&image, dir.path());
    let out = dir.path().join("out");
    fsck(&disk, &[&format!("--extract={}", out.display())]);
    for size in sizes {
        let expected = if size == 4096 { b"new".to_vec() } else { content(size) };
        assert!(fs::read(out.join(format!("d/{size}"))).unwrap() == expected, "{size}");
    }
    assert!(fs::read(out.join("e/f/g")).unwrap() == content(5000));
}

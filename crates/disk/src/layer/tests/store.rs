//! What the store has while layers come and go, and when something goes wrong.

use std::{
    collections::HashSet, io::Write as _, os::unix::fs::PermissionsExt as _, path::Path, thread,
};

use base::process::Command;
use fs_err as fs;

use super::{
    Tarball,
    whole::{add, assemble},
};
use crate::{
    image::{self, Config, ImageError},
    layer::{self, LayerError, LayerId, Limits},
    sweep,
};

fn layers(data: &Path) -> usize {
    fs::read_dir(layer::directory(data)).map_or(0, Iterator::count)
}

fn archive(text: &str) -> Vec<u8> {
    Tarball::default().file("f", text).file("large", text.repeat(2000)).end()
}

#[test]
fn layers_are_stored_once_and_collected_when_no_image_has_them() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path();
    let [a, b, c] = ["a", "b", "c"].map(|text| add(data, &archive(text)));
    assert_eq!(add(data, &archive("a")), a);
    assert_eq!(layers(data), 3);
    let first = assemble(data, &[a.clone(), b.clone()]);
    let second = assemble(data, &[b.clone(), a.clone(), b.clone()]);
    assert_ne!(first.digest(), second.digest());
    for file in second.files() {
        let directory = fs::metadata(file.parent().unwrap()).unwrap();
        assert_eq!(directory.permissions().mode() & 0o777, 0o700);
    }
    assert_eq!(second.files().len(), 3);
    let config = Config { env: vec![("A".to_owned(), "b".to_owned())], ..Config::default() };
    let third = image::assemble(data, first.layers(), config.clone(), "x".to_owned()).unwrap();
    assert_ne!(third.digest(), first.digest());
    assert_eq!(image::open_digest(data, third.digest()).unwrap().config(), &config);
    assert!(first.size() > 2 * 4096 && first.size() < second.size() + 4096);

    let name = "dev".parse().unwrap();
    image::name(data, &name, first.digest()).unwrap();
    assert!(image::name(data, &name, &"0".repeat(64)).is_err());
    assert_eq!(image::open(data, "dev").unwrap().digest(), first.digest());
    let held = image::hold(data).unwrap();
    assert!(image::collector(data).unwrap().is_none());
    drop(held);
    let collector = image::collector(data).unwrap().unwrap();
    let used = HashSet::from([second.digest().to_owned()]);
    assert_eq!(collector.collect(&used).unwrap(), (1, 1));
    assert!(!layer::exists(data, &c) && layer::exists(data, &a) && layer::exists(data, &b));
    image::remove(data, "dev").unwrap();
    assert_eq!(image::collect::collect_garbage(data, &HashSet::new()).unwrap(), 2);
    assert_eq!(layers(data), 0);
    assert!(image::open_digest(data, first.digest()).is_err());
    let error = image::assemble(data, &[a], Config::default(), String::new()).unwrap_err();
    assert!(matches!(error, ImageError::Layer(LayerError::Missing(_))), "{error}");
    let many = vec![b; 128];
    let error = image::assemble(data, &many, Config::default(), String::new()).unwrap_err();
    assert!(matches!(error, ImageError::TooManyLayers(128)), "{error}");
}

#[test]
fn several_may_add_the_same_and_other_layers_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let texts: Vec<_> = (0..4).map(|n| n.to_string()).collect();
    thread::scope(|scope| {
        for text in texts.iter().chain(&texts).chain(&texts) {
            scope.spawn(|| {
                let id = add(dir.path(), &archive(text));
                let image = assemble(dir.path(), std::slice::from_ref(&id));
                image::verify(&image).unwrap();
            });
        }
    });
    assert_eq!(layers(dir.path()), 4);
    assert_eq!(fs::read_dir(image::content_directory(dir.path())).unwrap().count(), 4);
}

#[test]
fn a_damaged_layer_is_found_and_mended() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path();
    let id = add(data, &archive("a"));
    let image = assemble(data, std::slice::from_ref(&id));
    let stored = layer::data_file(data, &id);
    let good = fs::read(&stored).unwrap();
    fs::write(&stored, vec![0; good.len()]).unwrap();
    assert!(image::verify(&image).unwrap_err().to_string().contains("is damaged"));
    fs::write(&stored, "short").unwrap();
    assert!(!layer::exists(data, &id));
    assert!(image::open_digest(data, image.digest()).is_err());
    assert_eq!(add(data, &archive("a")), id);
    assert!(fs::read(&stored).unwrap() == good);
    image::verify(&image::open_digest(data, image.digest()).unwrap()).unwrap();
    let index = stored.with_file_name("index");
    let mut bytes = fs::read(&index).unwrap();
    bytes[0] ^= 1;
    fs::write(&index, bytes).unwrap();
    let twice = [id.clone(), id];
    assert!(image::assemble(data, &twice, Config::default(), String::new()).is_err());
    fs::remove_file(&stored).unwrap();
    assert!(image::verify(&image).is_err());
}

/// The test below again, with a disk that has 1 MiB.
const FULL: &str = "BHATTI_SMALL_DISK";

#[test]
fn a_full_disk_leaves_nothing_half_made_and_all_there_was() {
    let Ok(data) = std::env::var(FULL) else {
        let dir = tempfile::tempdir().unwrap();
        let script = "mount -t tmpfs -o size=1m none \"$0\" && exec \"$1\" --exact --nocapture \
                      layer::tests::store::a_full_disk_leaves_nothing_half_made_and_all_there_was";
        // There are hosts where only root may make namespaces.
        let user: &[_] =
            if rustix::process::geteuid().is_root() { &[] } else { &["--user", "--map-root-user"] };
        let out = Command::new("unshare")
            .args(user)
            .args(["--mount", "sh", "-c", script])
            .args([dir.path().as_os_str(), std::env::current_exe().unwrap().as_os_str()])
            .env(FULL, dir.path());
        let out = String::from_utf8_lossy(&out.output().unwrap()).into_owned();
        assert!(out.contains("1 passed"), "{out}");
        return;
    };
    let data = Path::new(&data);
    let image = assemble(data, &[add(data, &archive("a"))]);
    let large = Tarball::default().file("large", vec![1; 3 << 20]).end();
    let error = layer::add(data, &mut &*large, None, &Limits::default()).unwrap_err();
    assert!(!error.is_of_the_image());
    assert!(ImageError::from(error).is_disk_full());
    assert_eq!(layers(data), 1);
    let small = (0..300).fold(Tarball::default(), |tar, n| tar.file(&n.to_string(), [1; 1000]));
    let id = add(data, &small.end());
    let free = base::files::free_bytes(data).unwrap();
    fs::write(data.join("filler"), vec![0; usize::try_from(free).unwrap() - 100_000]).unwrap();
    let made = image::assemble(data, &[id], Config::default(), String::new());
    assert!(made.unwrap_err().is_disk_full());
    let content = image::content_directory(data);
    assert_eq!(fs::read_dir(content).unwrap().count(), 1);
    image::verify(&image::open_digest(data, image.digest()).unwrap()).unwrap();
}

#[test]
fn what_a_crash_leaves_is_swept_and_work_in_progress_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path();
    let id = add(data, &archive("a"));
    let left = base::files::temporary_sibling(&layer::directory(data).join("new"));
    fs::create_dir(&left).unwrap();
    fs::write(left.join("data"), "half").unwrap();
    let (mut writer, mut reader) = rustix::pipe::pipe()
        .map(|(reader, writer)| {
            (fs::File::from_parts(writer.into(), "w"), std::fs::File::from(reader))
        })
        .unwrap();
    let bytes = Tarball::default().file("large", vec![1; 1 << 20]).end();
    thread::scope(|scope| {
        let adding = scope.spawn(|| layer::add(data, &mut reader, None, &Limits::default()));
        // More than a pipe holds: some of it is being unpacked when this returns.
        writer.write_all(&bytes[..500_000]).unwrap();
        assert_eq!(layers(data), 3);
        assert_eq!(sweep(data).unwrap(), 1);
        assert_eq!(layers(data), 2);
        writer.write_all(&bytes[500_000..]).unwrap();
        drop(writer);
        let id: LayerId = adding.join().unwrap().unwrap();
        assert!(layer::exists(data, &id));
    });
    assert!(layer::exists(data, &id));
}

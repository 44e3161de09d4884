use std::collections::HashSet;

use super::*;

/// Stores content under a name as `prepare` does.
fn store(data: &Path, name: &str, content: &[u8]) -> String {
    let digest = base::hash::bytes(content);
    let directory = content_directory(data).join(&digest);
    fs::create_dir_all(&directory).unwrap();
    fs::create_dir_all(names_directory(data)).unwrap();
    fs::write(directory.join(ROOT), content).unwrap();
    let manifest = Manifest {
        sha256: digest.clone(),
        size_bytes: content.len() as u64,
        created_at: 1,
        source: "test".to_owned(),
        ..Manifest::default()
    };
    let text = manifest::render(MAGIC, FORMAT, &manifest).unwrap();
    fs::write(directory.join(manifest::NAME), text).unwrap();
    let pointer = Pointer { name: name.parse().unwrap(), sha256: digest.clone() };
    let text = manifest::render(NAME_MAGIC, NAME_FORMAT, &pointer).unwrap();
    fs::write(names_directory(data).join(name), text).unwrap();
    digest
}

#[test]
fn a_replaced_image_stays_for_those_who_use_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path();
    let old = store(data, "dev", b"old");
    let new = store(data, "dev", b"new");
    assert_eq!(open(data, "dev").unwrap().digest(), new);
    let image = open_digest(data, &old).unwrap();
    assert_eq!(fs::read(&image.files()[0]).unwrap(), b"old");
    assert_eq!(image.name(), None);

    let held = hold(data).unwrap();
    assert_eq!(collect::collect_garbage(data, &HashSet::new()).unwrap(), 0);
    drop(held);
    assert_eq!(collect::collect_garbage(data, &HashSet::from([old.clone()])).unwrap(), 0);
    assert_eq!(collect::collect_garbage(data, &HashSet::new()).unwrap(), 1);
    assert!(open_digest(data, &old).is_err());
    assert_eq!(list(data).unwrap().len(), 1);
    remove(data, "dev").unwrap();
    assert!(open_digest(data, &new).is_ok());
    assert!(matches!(remove(data, "dev"), Err(ImageError::Unknown { .. })));
}

#[test]
fn an_unknown_image_says_which_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let error = open(dir.path(), "dev").unwrap_err();
    assert_eq!(error.hint().unwrap(), "no image has been made yet");
    store(dir.path(), "minimal", b"m");
    store(dir.path(), "busybox", b"b");
    let error = open(dir.path(), "dev").unwrap_err();
    assert_eq!(error.to_string(), "there is no image \"dev\"");
    assert_eq!(error.hint().unwrap(), "there are: busybox, minimal");
    assert!(matches!(open(dir.path(), "../names/dev"), Err(ImageError::Name(_))));
}

#[test]
fn damage_is_found() {
    let dir = tempfile::tempdir().unwrap();
    store(dir.path(), "dev", b"good");
    let image = open(dir.path(), "dev").unwrap();
    verify(&image).unwrap();
    fs::write(&image.files()[0], b"evil").unwrap();
    assert!(verify(&image).unwrap_err().to_string().contains("is damaged"));
    fs::write(&image.files()[0], b"longer").unwrap();
    assert!(open(dir.path(), "dev").is_err());
    let manifest = image.files()[0].with_file_name(manifest::NAME);
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"format\": 2", "\"format\": 3")).unwrap();
    let error = open(dir.path(), "dev").unwrap_err().to_string();
    assert!(error.ends_with("format 3, where this version reads 2"), "{error}");
}

/// A stored layer with one file of that name.
fn layer(data: &Path, name: &str) -> LayerId {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(3);
    header.set_mode(0o644);
    header.set_cksum();
    archive.append_data(&mut header, name, b"abc".as_slice()).unwrap();
    let archive = archive.into_inner().unwrap();
    layer::add(data, &mut archive.as_slice(), None, &layer::Limits::default()).unwrap()
}

/// An image of a root that is in no layer, and what it was packed to.
fn recipe(data: &Path, name: &str) -> (Image, LayerId) {
    store(data, name, b"root");
    let (image, root) = (open(data, name).unwrap(), layer(data, "root"));
    let known = Packed { root: Some(vec![root.clone()]), disk: None };
    keep_packed(data, &image, &known).unwrap();
    (image, root)
}

#[test]
fn what_was_packed_is_known_for_all_that_have_the_same_root() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path();
    store(data, "dev", b"root");
    assert_eq!(packed(data, &open(data, "dev").unwrap()), Packed::default());
    let (image, root) = recipe(data, "dev");
    assert_eq!(packed(data, &image).whole(&image), Some(vec![root.clone()]));
    let other = configure(
        data,
        &image,
        Config { cmd: vec!["sh".into()], ..Config::default() },
        String::new(),
    );
    let other = other.unwrap();
    assert_eq!(packed(data, &other).whole(&other), Some(vec![root]));
    store(data, "else", b"another root");
    assert_eq!(packed(data, &open(data, "else").unwrap()), Packed::default());
}

#[test]
fn a_disk_lies_over_the_layers_of_its_image() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path();
    let (low, high) = (layer(data, "low"), layer(data, "high"));
    let base =
        assemble(data, std::slice::from_ref(&low), Config::default(), String::new()).unwrap();
    assert_eq!(packed(data, &base).whole(&base), Some(vec![low.clone()]));
    let raw = data.join("raw");
    fs::write(&raw, "disk").unwrap();
    let disk = SavedDisk { size_mib: 1, raw, layers: Vec::new() };
    let saved = save(data, &base, &disk, Config::default(), String::new()).unwrap();
    let known = packed(data, &saved);
    assert_eq!(known.whole(&saved), None);
    keep_packed(data, &saved, &Packed { disk: Some(high.clone()), ..known }).unwrap();
    assert_eq!(packed(data, &saved).whole(&saved), Some(vec![low, high]));
}

#[test]
fn what_was_packed_goes_with_its_image_and_before_if_nobody_needs_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path();
    let (image, root) = recipe(data, "dev");
    let collector = |data| collector(data).unwrap().unwrap();
    let unused = |used: &[&str], packings| {
        let used = used.iter().map(ToString::to_string).collect();
        let unused = collector(data).unused(&used, packings).unwrap();
        unused.into_iter().map(|one| one.digest).collect::<Vec<_>>()
    };
    assert_eq!(unused(&[], Packings::Kept), Vec::<String>::new());
    assert_eq!(unused(&[root.as_str()], Packings::Dropped), Vec::<String>::new());
    let dropped = unused(&[], Packings::Dropped);
    assert_eq!(dropped, [root.as_str()]);
    fs::remove_dir_all(data.join("images/layers").join(root.as_str())).unwrap();
    assert_eq!(packed(data, &image), Packed::default());

    let (image, root) = recipe(data, "dev");
    remove(data, "dev").unwrap();
    assert_eq!(unused(&[], Packings::Kept), [image.digest(), root.as_str()]);
    assert_eq!(collector(data).collect(&HashSet::new()).unwrap(), (1, 1));
}

#[test]
fn layers_that_do_not_fit_are_not_kept_and_damage_is_nothing_known() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path();
    let (image, root) = recipe(data, "dev");
    let missing: LayerId = "0".repeat(64).parse().unwrap();
    let wrong = Packed { root: Some(vec![missing]), disk: None };
    assert!(matches!(keep_packed(data, &image, &wrong), Err(ImageError::Layer(_))));
    assert_eq!(packed(data, &image).root, Some(vec![root]));
    let path = data.join("images/packed").join(image.digest());
    let (half, lost) = (base::files::temporary_sibling(&path), path.with_file_name("0".repeat(64)));
    for left in [&half, &lost] {
        fs::write(left, "{").unwrap();
    }
    {
        let _making = hold(data).unwrap();
        assert_eq!(crate::sweep(data).unwrap(), 0);
    }
    assert_eq!(crate::sweep(data).unwrap(), 2);
    assert!(!half.exists() && !lost.exists());
    assert!(packed(data, &image).root.is_some());
    fs::write(&path, "{").unwrap();
    assert_eq!(packed(data, &image), Packed::default());
    remove(data, "dev").unwrap();
    assert_eq!(collect::collect_garbage(data, &HashSet::new()).unwrap(), 1);
    assert_eq!(crate::sweep(data).unwrap(), 1);
}

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

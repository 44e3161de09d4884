use std::{io::Seek as _, os::unix::fs::PermissionsExt as _};

use age::{secrecy::ExposeSecret as _, x25519::Identity};

use super::*;

fn sample() -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.set_len(300 << 20).unwrap();
    file.seek(io::SeekFrom::Start(7_000_001)).unwrap();
    file.write_all(&[5; 3 << 20]).unwrap();
    file.seek(io::SeekFrom::Start((300 << 20) - 3)).unwrap();
    file.write_all(b"end").unwrap();
    file
}

fn backup(path: &Path, recipients: Option<&Recipients>) -> Made {
    let mut source = sample();
    let manifest = Manifest::new("data".to_owned(), source.size(), recipients.is_some());
    make(&mut source, &manifest, recipients, path, &mut |_| Ok(())).unwrap()
}

fn back(bytes: &[u8], sha256: Option<&str>, keys: Option<&Identities>) -> Result<(), FormatError> {
    let mut file = tempfile::tempfile().unwrap();
    restore(bytes, sha256, keys, &mut file, &mut |_| Ok(()))?;
    let mut expected = sample();
    assert_eq!(file.size(), expected.size());
    let mut at = 0;
    loop {
        let (one, other) = (file.next_data(at).unwrap(), expected.next_data(at).unwrap());
        let Some(range) = one.into_iter().chain(other).reduce(|a, b| a.start.min(b.start)..b.end)
        else {
            return Ok(());
        };
        let length = usize::try_from(range.end.min(file.size()) - range.start).unwrap();
        let (mut found, mut wanted) = (vec![0; length], vec![0; length]);
        file.read_at(&mut found, range.start).unwrap();
        expected.read_at(&mut wanted, range.start).unwrap();
        assert!(found == wanted, "{range:?}");
        at = range.end;
    }
}

fn keys() -> (Recipients, Identities) {
    let key = Identity::generate();
    let public = Recipients::parse(&[key.to_public().to_string()]).unwrap().unwrap();
    (public, Identities::parse(key.to_string().expose_secret()).unwrap())
}

#[test]
fn a_file_that_was_made_is_whole_private_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("backup");
    let made = backup(&path, None);
    let bytes = fs::read(&path).unwrap();
    assert_eq!((made.bytes, made.encrypted), (bytes.len() as u64, false));
    assert_eq!(made.sha256, base::hash::bytes(&bytes));
    assert!(made.data < 5 << 20 && made.bytes < 20_000, "{made:?}");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    back(&bytes, Some(&made.sha256), None).unwrap();
    let error = back(&bytes, Some(&"0".repeat(64)), None).unwrap_err();
    assert!(error.to_string().contains("its SHA-256 is not the one"), "{error}");
}

#[test]
fn an_encrypted_one_opens_for_whom_it_is_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("backup");
    let ((public, secret), (_, other)) = (keys(), keys());
    let made = backup(&path, Some(&public));
    let bytes = fs::read(&path).unwrap();
    assert!(bytes.starts_with(b"age-encryption.org/v1\n") && made.encrypted);
    back(&bytes, Some(&made.sha256), Some(&secret)).unwrap();
    assert!(matches!(back(&bytes, None, None), Err(FormatError::Encrypted)));
    assert!(matches!(back(&bytes, None, Some(&other)), Err(FormatError::WrongIdentity)));
}

#[test]
fn damage_to_an_encrypted_one_is_noticed_wherever_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("backup");
    let (public, secret) = keys();
    backup(&path, Some(&public));
    let bytes = fs::read(&path).unwrap();
    for at in (0..bytes.len()).step_by(37).chain(bytes.len() - 40..bytes.len()) {
        let mut bad = bytes.clone();
        bad[at] ^= 4;
        assert!(back(&bad, None, Some(&secret)).is_err(), "flipped at {at}");
        assert!(back(&bytes[..at], None, Some(&secret)).is_err(), "cut at {at}");
    }
}

#[test]
fn one_that_cannot_be_made_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = sample();
    let manifest = Manifest::new("data".to_owned(), source.size(), false);
    let stop = &mut |_| Err(io::Error::from(io::ErrorKind::TimedOut));
    let made = make(&mut source, &manifest, None, &dir.path().join("backup"), stop);
    assert_eq!(made.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

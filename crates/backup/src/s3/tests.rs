//! Against a storage that is not ours, with somebody in between who does harm.

mod between;

use std::{path::Path, sync::Mutex, time::Duration};

use base::hash;
use between::{Between, Harm};
use fs_err as fs;
use tokio::time::timeout;

use super::*;
use crate::{destination::Destination, spool::Made, testing::Moto};

const MIB: usize = 1 << 20;

struct Place {
    between: Between,
    dir: tempfile::TempDir,
    to: Destination,
    _moto: Moto,
}

impl Place {
    async fn new() -> Self {
        let moto = Moto::start().await;
        let between = Between::start(&moto.endpoint).await;
        let config = S3Config { endpoint: between.endpoint.clone(), ..moto.config() };
        let to = Destination::S3(Box::new(S3::new(&config).unwrap()));
        Self { between, dir: tempfile::tempdir().unwrap(), to, _moto: moto }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// A file of so many bytes that no two parts of are equal.
    fn file(&self, bytes: usize) -> Made {
        let content: Vec<u8> =
            (0..bytes.div_ceil(8)).flat_map(|n| (n as u64 * 0x9e37_79b9).to_le_bytes()).collect();
        fs::write(self.path("file"), &content[..bytes]).unwrap();
        let sha256 = hash::bytes(&content[..bytes]);
        Made { bytes: bytes as u64, sha256, data: 0, encrypted: false }
    }

    async fn put(&self, made: &Made, key: &str) -> Result<(), String> {
        let (file, journal) = (self.path("file"), self.path("journal"));
        let key = Key::new(key).unwrap();
        let put = self.to.put(&file, made, &key, &journal, &|_| ());
        timeout(Duration::from_secs(60), put).await.unwrap().map_err(|e| base::chain(&e))
    }

    /// What comes back, as its hash.
    async fn get(&self, key: &str, bytes: u64) -> Result<String, String> {
        let key = Key::new(key).unwrap();
        let mut input = self.to.get(&key, bytes).await.map_err(|error| base::chain(&error))?;
        let read = tokio::task::spawn_blocking(move || {
            let mut content = Vec::new();
            io::Read::read_to_end(&mut input, &mut content).map(|_| hash::bytes(&content))
        });
        timeout(Duration::from_secs(60), read).await.unwrap().unwrap().map_err(|e| base::chain(&e))
    }

    async fn unfinished(&self) -> usize {
        let Destination::S3(s3) = &self.to else { unreachable!() };
        s3.sweep(&[Key::new("volumes/a/x").unwrap()], &[]).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_comes_back_is_listed_and_can_be_deleted() {
    let place = Place::new().await;
    for (key, bytes) in [("volumes/a/empty", 0), ("volumes/a/one", 1), ("volumes/b/8", 8 * MIB)] {
        let made = place.file(bytes);
        place.put(&made, key).await.unwrap();
        assert_eq!(place.get(key, made.bytes).await.unwrap(), made.sha256);
    }
    // In parts, of which the last is short.
    let made = place.file(20 * MIB + 5);
    let told = Mutex::new(Vec::new());
    let key = Key::new("volumes/b/20").unwrap();
    let tell = |at: u64| told.lock().unwrap().push(at);
    place.to.put(&place.path("file"), &made, &key, &place.path("journal"), &tell).await.unwrap();
    assert_eq!(place.get("volumes/b/20", made.bytes).await.unwrap(), made.sha256);
    let told = told.into_inner().unwrap();
    assert!(told.is_sorted() && told[0] == 0 && *told.last().unwrap() == made.bytes, "{told:?}");
    assert!(!place.path("journal").exists());

    let names = |list: Vec<Object>| -> Vec<(String, u64)> {
        list.into_iter().map(|object| (object.key.to_string(), object.bytes)).collect()
    };
    let found = names(place.to.list("volumes/b/").await.unwrap());
    assert_eq!(
        found,
        [("volumes/b/20".to_owned(), made.bytes), ("volumes/b/8".to_owned(), 8 << 20)]
    );
    for _ in 0..2 {
        place.to.delete(&key).await.unwrap();
    }
    let error = place.get("volumes/b/20", made.bytes).await.unwrap_err();
    assert_eq!(error, "there is nothing under volumes/b/20");
    let error = place.get("volumes/b/8", 9 << 20).await.unwrap_err();
    assert!(error.contains("another length"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_goes_wrong_on_the_way_there_is_tried_again() {
    let place = Place::new().await;
    let made = place.file(20 * MIB);
    for (name, request, harm) in [
        ("begin", "uploads", Harm::Status(503)),
        ("first", "partNumber=1&", Harm::Status(500)),
        ("slow", "partNumber=2&", Harm::Status(429)),
        ("taken", "partNumber=2&", Harm::CutRequest(3 * MIB)),
        ("answer", "partNumber=3&", Harm::LoseAnswer),
        ("flipped", "partNumber=1&", Harm::Flip),
        ("complete", "uploadId=", Harm::Status(502)),
        // The upload is complete then, but nobody was told.
        ("completed", "POST uploadId=", Harm::LoseAnswer),
    ] {
        place.between.harm(request, harm);
        let key = format!("volumes/a/{name}");
        place.put(&made, &key).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(place.between.done(), "{name}: nothing was harmed");
        assert_eq!(place.get(&key, made.bytes).await.unwrap(), made.sha256, "{name}");
    }
    let small = place.file(1000);
    place.between.harm("PUT", Harm::Flip);
    place.put(&small, "volumes/a/small").await.unwrap();
    assert_eq!(place.get("volumes/a/small", 1000).await.unwrap(), small.sha256);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_breaks_goes_on_where_it_was() {
    let place = Place::new().await;
    let made = place.file(20 * MIB);
    place.put(&made, "volumes/a/x").await.unwrap();
    for harm in [Harm::CutAnswer(7 * MIB), Harm::Status(503), Harm::CutAnswer(0)] {
        place.between.harm("GET", harm);
        assert_eq!(place.get("volumes/a/x", made.bytes).await.unwrap(), made.sha256);
        assert!(place.between.done());
    }
    // Whole, but not what it was: that is for the hash to find.
    place.between.harm("GET", Harm::Flip);
    assert_ne!(place.get("volumes/a/x", made.bytes).await.unwrap(), made.sha256);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_cut_goes_on_with_the_parts_that_are_missing() {
    let place = Place::new().await;
    let made = place.file(44 * MIB);
    // The fourth part never arrives, and then the process is gone.
    place.between.harm("partNumber=4&", Harm::Hang);
    let key = Key::new("volumes/a/x").unwrap();
    let (file, journal) = (place.path("file"), place.path("journal"));
    let (to, begun, at) = (place.to.clone(), made.clone(), journal.clone());
    let (file_of, key_of) = (file.clone(), key.clone());
    let dying = tokio::spawn(async move { to.put(&file_of, &begun, &key_of, &at, &|_| ()).await });
    place.between.until("PUT partNumber=6&").await;
    wait_for_parts(&journal, 5).await;
    dying.abort();
    let _ = dying.await;

    place.between.forget();
    place.put(&made, "volumes/a/x").await.unwrap();
    assert_eq!(place.get("volumes/a/x", made.bytes).await.unwrap(), made.sha256);
    assert_eq!(place.between.seen("PUT partNumber="), 1, "only what was missing is sent again");
    assert_eq!(place.unfinished().await, 0);
}

/// The journal is written after a part has arrived, which is after the one in between saw it.
async fn wait_for_parts(journal: &Path, count: usize) {
    let wait = async {
        loop {
            let text = fs::read_to_string(journal).unwrap_or_default();
            let journal = serde_json::from_str::<serde_json::Value>(&text).unwrap_or_default();
            if journal["parts"].as_object().is_some_and(|parts| parts.len() >= count) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(30), wait).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_and_cannot_go_on_begins_anew_or_is_ended() {
    let place = Place::new().await;
    let made = place.file(20 * MIB);
    let key = Key::new("volumes/a/x").unwrap();
    let (file, journal) = (place.path("file"), place.path("journal"));
    let begin = async |place: &Place| {
        // What was seen of another upload is nothing to wait for.
        place.between.forget();
        place.between.harm("partNumber=2&", Harm::Hang);
        let (to, made, key) = (place.to.clone(), made.clone(), key.clone());
        let (file, journal) = (file.clone(), journal.clone());
        let dying =
            tokio::spawn(async move { to.put(&file, &made, &key, &journal, &|_| ()).await });
        place.between.until("partNumber=2&").await;
        dying.abort();
        let _ = dying.await;
        place.between.forget();
    };
    begin(&place).await;
    let keys = std::slice::from_ref(&key);
    // The storage has forgotten it: somebody ended it there.
    assert_eq!(place.to.sweep(keys, std::slice::from_ref(&journal)).await.unwrap(), 0);
    let others = [Key::new("volumes/b/x").unwrap()];
    assert_eq!(place.to.sweep(&others, &[]).await.unwrap(), 0, "somebody else's is let be");
    assert_eq!(place.to.sweep(keys, &[]).await.unwrap(), 1);
    place.put(&made, "volumes/a/x").await.unwrap();
    assert_eq!(place.get("volumes/a/x", made.bytes).await.unwrap(), made.sha256);

    begin(&place).await;
    place.to.abandon(&journal).await.unwrap();
    assert!(!journal.exists());
    assert_eq!(place.unfinished().await, 0);
    place.to.abandon(&journal).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_will_not_work_is_told_at_once_and_without_secrets() {
    let place = Place::new().await;
    let made = place.file(1000);
    place.between.harm("PUT", Harm::Status(403));
    let error = place.put(&made, "volumes/a/x").await.unwrap_err();
    assert!(error.contains("refused to store a backup: 403"), "{error}");
    let moto = Moto::start().await;
    let mut config = S3Config { bucket: "missing".to_owned(), ..moto.config() };
    let s3 = S3::new(&config).unwrap();
    let error = s3.list("volumes/").await.unwrap_err().to_string();
    assert!(error.contains("404, NoSuchBucket"), "{error}");
    for text in [error, format!("{config:?}"), format!("{s3:?}")] {
        assert!(!text.contains("not-a-secret") && !text.contains("X-Amz"), "{text}");
    }
    config.endpoint = "ftp://example".to_owned();
    assert!(matches!(S3::new(&config), Err(ConfigError::Endpoint(_))));
    config = S3Config { prefix: "../other".to_owned(), ..moto.config() };
    assert!(matches!(S3::new(&config), Err(ConfigError::Prefix(_))));
}

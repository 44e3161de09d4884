use std::collections::BTreeSet;

use net::{
    fabric::Caps,
    policy::{Egress, Mode},
};
use proptest::prelude::*;
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::{
    model::{Failure, StoppedBy},
    testing::record,
};

mod images;

fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.db")).unwrap();
    (dir, store)
}

async fn user(store: &Store, name: &str) -> User {
    store.create_user(name, false, UserLimits::default()).await.unwrap().0
}

#[tokio::test]
async fn what_was_stored_is_there_after_reopening() {
    let (dir, store) = store();
    let owner = user(&store, "u").await;
    let kept = store.insert_sandbox(&record(&owner.id, "a"), 5).await.unwrap();
    assert_eq!(kept.slot, 0);
    let state = State::Running { pid: 7, start_time: u64::MAX, paused: true };
    store.update_state(&kept.id, 2, &state).await.unwrap();
    drop(store);
    let store = Store::open(&dir.path().join("store.db")).unwrap();
    let expected = Record { generation: 2, state, ..kept };
    assert_eq!(store.sandboxes().await.unwrap(), [expected]);
}

#[tokio::test]
async fn every_state_survives_the_round_trip() {
    let (_dir, store) = store();
    let owner = user(&store, "u").await;
    let kept = store.insert_sandbox(&record(&owner.id, "a"), 5).await.unwrap();
    let states = [
        State::Stopped { since: -1, by: StoppedBy::Idleness },
        State::Failed(Failure { cause: "x\n\0y".into(), snapshot_taken_at: Some(3) }),
        State::Destroying,
        State::Creating,
    ];
    for (generation, state) in (2..).zip(states) {
        store.update_state(&kept.id, generation, &state).await.unwrap();
        assert_eq!(store.sandboxes().await.unwrap()[0].state, state);
    }
}

#[tokio::test]
async fn an_older_state_never_replaces_a_newer_one() {
    let (_dir, store) = store();
    let owner = user(&store, "u").await;
    let kept = store.insert_sandbox(&record(&owner.id, "a"), 5).await.unwrap();
    store.update_state(&kept.id, 9, &State::Destroying).await.unwrap();
    for stale in [1, 9] {
        let error = store.update_state(&kept.id, stale, &State::Creating).await.unwrap_err();
        assert_eq!(error.kind, Kind::Internal);
    }
    assert_eq!(store.sandboxes().await.unwrap()[0].state, State::Destroying);
    store.delete_sandbox(&kept.id).await.unwrap();
    let error = store.update_state(&kept.id, 10, &State::Creating).await.unwrap_err();
    assert_eq!(error.kind, Kind::SandboxNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_inserts_at_once_do_not_pass_a_limit_of_five() {
    let (_dir, store) = store();
    let owner = user(&store, "u").await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..50 {
        let (store, record) = (store.clone(), record(&owner.id, &format!("s{n}")));
        tasks.spawn(async move { store.insert_sandbox(&record, 5).await });
    }
    let results = tasks.join_all().await;
    let refused = results.iter().filter_map(|r| r.as_ref().err());
    assert!(refused.clone().all(|error| error.kind == Kind::QuotaSandboxes));
    assert_eq!(refused.count(), 45);
    let slots: BTreeSet<u32> = results.iter().flatten().map(|record| record.slot).collect();
    assert_eq!(slots, (0..5).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_with_one_name_exactly_one_is_kept_and_others_may_use_the_name_too() {
    let (_dir, store) = store();
    let (owner, other) = (user(&store, "u").await, user(&store, "v").await);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (store, record) = (store.clone(), record(&owner.id, "same"));
        tasks.spawn(async move { store.insert_sandbox(&record, 5).await });
    }
    let results = tasks.join_all().await;
    assert_eq!(results.iter().flatten().count(), 1);
    assert!(results.iter().filter_map(|r| r.as_ref().err()).all(|e| e.kind == Kind::NameTaken));
    store.insert_sandbox(&record(&other.id, "same"), 5).await.unwrap();
}

#[tokio::test]
async fn a_repeated_create_at_the_limit_hears_of_the_name_and_not_of_the_limit() {
    let (_dir, store) = store();
    let owner = user(&store, "u").await;
    store.insert_sandbox(&record(&owner.id, "a"), 1).await.unwrap();
    let repeated = store.insert_sandbox(&record(&owner.id, "a"), 1).await.unwrap_err();
    assert_eq!(repeated.kind, Kind::NameTaken);
    let another = store.insert_sandbox(&record(&owner.id, "b"), 1).await.unwrap_err();
    assert_eq!(another.kind, Kind::QuotaSandboxes);
    let stranger = store.insert_sandbox(&record(&UserId::random(), "c"), 1).await.unwrap_err();
    assert_eq!(stranger.kind, Kind::UserNotFound);
}

#[tokio::test]
async fn only_the_right_and_current_key_finds_its_user() {
    let (dir, store) = store();
    let (made, key) = store.create_user("u", false, UserLimits::default()).await.unwrap();
    assert!(key.len() == 68 && key.starts_with("bht_"));
    assert_eq!(store.user_by_key(&key), Some(made.clone()));
    for wrong in ["", "bht_", &key[4..], &key.to_uppercase(), &base::hash::bytes(key.as_bytes())] {
        assert_eq!(store.user_by_key(wrong), None, "{wrong}");
    }
    let next = store.rotate_key("u").await.unwrap().1;
    assert_eq!(store.user_by_key(&key), None);
    assert_eq!(store.user_by_key(&next), Some(made.clone()));
    let reopened = Store::open(&dir.path().join("store.db")).unwrap();
    assert_eq!(reopened.user_by_key(&next), Some(made.clone()));
    store.delete_user(made.id.as_str()).await.unwrap();
    assert_eq!(store.user_by_key(&next), None);
    assert_eq!(store.find_user("u").await.unwrap_err().kind, Kind::UserNotFound);
}

#[tokio::test]
async fn keys_are_not_in_the_file() {
    let (dir, store) = store();
    let (_, key) = store.create_user("u", false, UserLimits::default()).await.unwrap();
    for entry in fs_err::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        let content = fs_err::read(entry.path()).unwrap();
        assert!(!content.windows(16).any(|w| w == &key.as_bytes()[4..20]));
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&entry.metadata().unwrap().permissions());
        assert_eq!(mode & 0o077, 0, "{:?}", entry.path());
    }
}

#[tokio::test]
async fn users_that_own_something_and_the_last_admin_stay() {
    let (_dir, store) = store();
    let key = store.ensure_admin().await.unwrap().unwrap();
    assert_eq!(store.ensure_admin().await.unwrap(), None);
    assert_eq!(store.user_by_key(&key).map(|user| user.admin), Some(true));
    assert_eq!(store.admin().unwrap().name.as_str(), FIRST_ADMIN);
    assert_eq!(store.delete_user(FIRST_ADMIN).await.unwrap_err().kind, Kind::UserInUse);
    assert!(store.user_by_key(&key).is_some());

    let owner = user(&store, "u").await;
    let kept = store.insert_sandbox(&record(&owner.id, "a"), 5).await.unwrap();
    assert_eq!(store.delete_user("u").await.unwrap_err().kind, Kind::UserInUse);
    let counts: Vec<u32> = store.users().await.unwrap().into_iter().map(|(_, n)| n).collect();
    assert_eq!(counts, [0, 1]);
    store.delete_sandbox(&kept.id).await.unwrap();
    store.delete_user("u").await.unwrap();

    store.create_user("second", true, UserLimits::default()).await.unwrap();
    store.delete_user(FIRST_ADMIN).await.unwrap();
    assert_eq!(store.admin().unwrap().name.as_str(), "second");
}

#[tokio::test]
async fn user_names_are_unique_and_cannot_look_like_ids() {
    let (_dir, store) = store();
    user(&store, "u").await;
    for (name, kind) in
        [("u", Kind::UserExists), ("usr_01234567", Kind::InvalidName), ("a b", Kind::InvalidName)]
    {
        let error = store.create_user(name, false, UserLimits::default()).await.unwrap_err();
        assert_eq!(error.kind, kind, "{name}");
    }
}

#[tokio::test]
async fn a_place_and_a_network_are_given_again_only_after_all_others() {
    let (dir, store) = store();
    let owner = user(&store, "u").await;
    let mut hosts = Vec::new();
    for name in ["a", "b", "c"] {
        let kept = store.insert_sandbox(&record(&owner.id, name), 5).await.unwrap();
        hosts.push(kept.address.host);
        store.delete_sandbox(&kept.id).await.unwrap();
    }
    assert_eq!(hosts, [2, 3, 4]);
    let (_, network) = store.delete_user("u").await.unwrap();
    assert_eq!(network, Some(0));
    drop(store);
    let store = Store::open(&dir.path().join("store.db")).unwrap();
    let next = user(&store, "v").await;
    let kept = store.insert_sandbox(&record(&next.id, "a"), 5).await.unwrap();
    assert_eq!((kept.address.network, kept.address.host), (1, 2));
}

#[tokio::test]
async fn what_an_admin_says_of_a_users_traffic_is_kept() {
    let (dir, store) = store();
    user(&store, "u").await;
    let deny = Egress { mode: Mode::Deny, ..Egress::default() };
    let caps = Caps { bytes_per_second: Some(7), packets_per_second: None };
    let edit = UserEdit {
        ceiling: Some(Some(deny.clone())),
        default_egress: Some(Some(Egress::default())),
        caps: Some(caps),
        ..UserEdit::default()
    };
    let edited = store.edit_user("u", edit).await.unwrap();
    drop(store);
    let store = Store::open(&dir.path().join("store.db")).unwrap();
    assert_eq!(store.find_user("u").await.unwrap(), edited);
    assert_eq!(store.user_by_id(&edited.id), Some(edited));
    let edit = UserEdit { ceiling: Some(None), ..UserEdit::default() };
    let network = store.edit_user("u", edit).await.unwrap().network;
    assert_eq!((network.ceiling, network.caps), (None, caps));
    assert_eq!(network.default, Some(Egress::default()));
}

#[test]
fn what_nobody_said_of_traffic_is_not_kept_as_said() {
    let mut old = Connection::open_in_memory().unwrap();
    schema::migrate(&mut old, &schema::MIGRATIONS[..4]).unwrap();
    old.execute_batch(&format!(
        "INSERT INTO users (id, name, admin, key_sha256, max_sandboxes, max_cpus, max_memory_mib,
         created_at) VALUES ('u', 'u', 0, '{}', 1, 1, 1, 1)",
        "0".repeat(64)
    ))
    .unwrap();
    let specs = [
        r#"{"network":{"egress":{"mode":"open"},"caps":{"bytes_per_second":5}}}"#,
        r#"{"network":{"egress":{"mode":"deny"},"caps":{}}}"#,
        r#"{"image":"x"}"#,
    ];
    for (n, spec) in (0i64..).zip(specs) {
        let values = rusqlite::params![n.to_string(), n, spec];
        let insert =
            "INSERT INTO sandboxes (id, owner, name, slot, host, generation, spec, identity,
             state, created_at) VALUES (?1, 'u', ?1, ?2, 2 + ?2, 1, ?3, '{}', '{}', 1)";
        old.execute(insert, values).unwrap();
    }
    schema::migrate(&mut old, schema::MIGRATIONS).unwrap();
    let mut statement = old.prepare("SELECT spec FROM sandboxes ORDER BY slot").unwrap();
    let found = statement.query_map([], |row| row.get(0)).unwrap();
    let found: Vec<String> = found.map(Result::unwrap).collect();
    assert_eq!(found[0], r#"{"network":{"caps":{"bytes_per_second":5}}}"#);
    assert_eq!(found[1..], specs[1..]);
}

/// Tables and indices as SQLite describes them.
fn described(connection: &Connection) -> Vec<String> {
    let mut statement =
        connection.prepare("SELECT coalesce(sql, name) FROM sqlite_schema ORDER BY name").unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[test]
fn every_earlier_version_is_brought_to_the_present_one() {
    let mut fresh = Connection::open_in_memory().unwrap();
    schema::migrate(&mut fresh, schema::MIGRATIONS).unwrap();
    for version in 0..=schema::MIGRATIONS.len() {
        let mut old = Connection::open_in_memory().unwrap();
        schema::migrate(&mut old, &schema::MIGRATIONS[..version]).unwrap();
        schema::migrate(&mut old, schema::MIGRATIONS).unwrap();
        assert_eq!(described(&old), described(&fresh), "from version {version}");
    }
}

#[test]
fn a_failed_migration_leaves_the_file_as_it_was() {
    let mut connection = Connection::open_in_memory().unwrap();
    schema::migrate(&mut connection, schema::MIGRATIONS).unwrap();
    let before = described(&connection);
    let mut steps = schema::MIGRATIONS.to_vec();
    steps.push("CREATE TABLE more (a INTEGER) STRICT; ALTER TABLE none ADD COLUMN b");
    schema::migrate(&mut connection, &steps).unwrap_err();
    assert_eq!(described(&connection), before);
    schema::migrate(&mut connection, schema::MIGRATIONS).unwrap();
}

#[test]
fn a_file_of_a_newer_version_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    drop(Store::open(&path).unwrap());
    let newer = i64::try_from(schema::MIGRATIONS.len()).unwrap() + 1;
    let connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", newer).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(error.message.contains("newer bhatti"), "{error}");
    let kept: i64 = connection.pragma_query_value(None, "user_version", |r| r.get(0)).unwrap();
    assert_eq!(kept, newer);
}

#[derive(Debug, Clone)]
enum Step {
    Insert { owner: usize, name: u8 },
    Delete { nth: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..2usize, 0..6u8).prop_map(|(owner, name)| Step::Insert { owner, name }),
        1 => (0..6usize).prop_map(|nth| Step::Delete { nth }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn limits_names_and_slots_hold_whatever_comes(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (_dir, store) = store();
            let owners = [user(&store, "u").await.id, user(&store, "v").await.id];
            let mut model: Vec<Record> = Vec::new();
            for step in steps {
                match step {
                    Step::Insert { owner, name } => {
                        let wanted = record(&owners[owner], &format!("s{name}"));
                        let own = model.iter().filter(|r| r.owner == wanted.owner);
                        let expected = if own.clone().any(|r| r.name == wanted.name) {
                            Err(Kind::NameTaken)
                        } else if own.count() >= 3 {
                            Err(Kind::QuotaSandboxes)
                        } else {
                            Ok((0..).find(|n| model.iter().all(|r| r.slot != *n)).unwrap())
                        };
                        let result = store.insert_sandbox(&wanted, 3).await;
                        let slot = result.as_ref().map(|r| r.slot).map_err(|error| error.kind);
                        assert_eq!(slot, expected);
                        model.extend(result.ok());
                    }
                    Step::Delete { nth } if nth < model.len() => {
                        store.delete_sandbox(&model.remove(nth).id).await.unwrap();
                    }
                    Step::Delete { .. } => {}
                }
            }
            assert_eq!(store.sandboxes().await.unwrap(), model);
        });
    }
}

use proptest::prelude::*;
use proto::message::{Join, Resume};

use super::*;

const NAME: &str = "shr_0123456789ab";

fn join(id: &str) -> Join {
    Join { session: id.to_owned(), new: None, size: None, input: false, resume: None }
}

fn typing(id: &str) -> Join {
    Join { input: true, ..join(id) }
}

/// Joins a session; what is told first, besides what a client keeps.
async fn joins(host: &Session, join: Join) -> (Client, u64, Option<WindowSize>) {
    let mut stream = open(host, &Request::Join(join)).await;
    match hear(&mut stream).await {
        Response::Joined { session, created, start, replay, size } => {
            (Client { stream, session, created, replay, heard: Vec::new() }, start, size)
        }
        other => panic!("{other:?}"),
    }
}

const fn size(rows: u16, cols: u16) -> WindowSize {
    WindowSize { rows, cols }
}

#[tokio::test]
async fn whoever_watches_sees_all_and_changes_nothing() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let script = "echo begin; while read x; do echo got $x; stty size; done";
    let mut owner = Client::attach(&host, new(program(script, true))).await;
    owner.until("begin\r\n").await;
    let watch = Join { size: Some(size(9, 9)), ..join("s1") };
    let (mut watcher, start, told) = joins(&host, watch).await;
    assert_eq!((watcher.created, start, told), (false, 0, Some(size(24, 80))));
    watcher.until("begin\r\n").await;
    watcher.say("stray\n").await;
    watcher.resize(5, 5).await;
    // The agent has heard that when it answers the same stream's owner.
    assert_eq!(ask(&host, &Request::Ping).await, Response::Done);
    owner.say("one\n").await;
    owner.until("got one\r\n24 80\r\n").await;
    watcher.until("got one\r\n24 80\r\n").await;
    assert_eq!(watcher.text(), owner.text());
    assert!(!owner.text().contains("stray"));
    let info = sessions(&host).await.remove(0);
    assert_eq!((info.attached, info.joined), (true, 1));
    owner.resize(40, 100).await;
    assert_eq!(watcher.answer().await, Response::Resized(size(40, 100)));
    drop(watcher);
    until(&host, "s1", |session| session.joined == 0).await;
    owner.say("\u{4}").await;
    assert_eq!(owner.answer().await, Response::Exited(ended(0)));
}

#[tokio::test]
async fn whoever_types_does_so_beside_the_client_and_has_no_say_in_the_size_meanwhile() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let script = "echo begin; while read x; do echo got $x; stty size; done";
    let mut owner = Client::attach(&host, new(program(script, true))).await;
    owner.until("begin\r\n").await;
    let (mut guest_one, _, told) =
        joins(&host, Join { size: Some(size(9, 9)), ..typing("s1") }).await;
    assert_eq!(told, Some(size(24, 80)));
    guest_one.say("one\n").await;
    owner.until("got one\r\n24 80\r\n").await;
    drop(owner);
    until(&host, "s1", |session| !session.attached).await;
    guest_one.resize(30, 90).await;
    assert_eq!(guest_one.answer().await, Response::Resized(size(30, 90)));
    guest_one.say("two\n").await;
    guest_one.until("got two\r\n30 90\r\n").await;
    guest_one.say("\u{4}").await;
    assert_eq!(guest_one.answer().await, Response::Exited(ended(0)));
}

#[tokio::test]
async fn a_session_is_made_under_its_name_and_found_again_by_it_alone() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let session = program("echo $((6*7)); read x; exit 3", true);
    let wanted = Join { new: Some(session), size: Some(size(20, 70)), ..typing(NAME) };
    let (mut one, _, told) = joins(&host, wanted.clone()).await;
    assert_eq!((one.created, one.session.id.as_str(), told), (true, NAME, Some(size(20, 70))));
    let (two, ..) = joins(&host, wanted.clone()).await;
    assert!(!two.created);
    drop(two);
    one.until("42\r\n").await;
    let newest = Attach { target: Target::NewestOr(program("cat", true)), size: None };
    let other = Client::attach(&host, newest).await;
    assert_eq!((other.created, other.session.id.as_str()), (true, "s1"));
    ask(&host, &Request::Kill { id: "s1".to_owned(), signal: 9 }).await;
    one.say("\n").await;
    assert_eq!(one.answer().await, Response::Exited(ended(3)));
    // One that has ended gives way to another.
    let (mut again, start, _) = joins(&host, wanted).await;
    assert_eq!((again.created, start), (true, 0));
    again.say("\n").await;
    assert_eq!(again.answer().await, Response::Exited(ended(3)));
    for name in ["s9", "j_1", "a b_", "", "init"] {
        let refused_one = Join { new: Some(program("cat", true)), ..join(name) };
        assert_eq!(refused(&host, &Request::Join(refused_one)).await, ErrorCode::Invalid, "{name}");
    }
    assert_eq!(refused(&host, &Request::Join(join("s9"))).await, ErrorCode::UnknownSession);
}

#[tokio::test]
async fn whoever_comes_back_goes_on_where_it_was() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let wanted = Join { new: Some(program("echo begin; cat", true)), ..typing(NAME) };
    let (mut one, start, _) = joins(&host, wanted.clone()).await;
    one.until("begin\r\n").await;
    let created_at = one.session.created_at;
    let at =
        |created_at, cursor| Join { resume: Some(Resume { created_at, cursor }), ..wanted.clone() };
    let cursor = start + 7;
    let (resumed, start, _) = joins(&host, at(created_at, cursor)).await;
    assert_eq!((start, resumed.replay), (7, 0));
    for (created_at, cursor) in [(created_at - 1, 7), (created_at, 8)] {
        let (other, start, _) = joins(&host, at(created_at, cursor)).await;
        assert_eq!((start, other.replay), (0, 7), "what it was is not known");
    }
    ask(&host, &Request::Kill { id: NAME.to_owned(), signal: 9 }).await;
}

#[tokio::test]
async fn nobody_who_joined_holds_up_the_client() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let script = "read x; head -c 3000000 /dev/zero | tr '\\0' x; exit 9";
    let mut owner = Client::attach(&host, new(program(script, true))).await;
    let (mut watcher, ..) = joins(&host, typing("s1")).await;
    owner.say("\n").await;
    assert_eq!(owner.answer().await, Response::Exited(ended(9)));
    let (mut skipped, mut heard) = (0, 0);
    loop {
        match next(&mut watcher.stream).await {
            Ok((_, bytes)) => heard += bytes.len() as u64,
            Err(Response::Skipped { bytes }) => skipped += bytes,
            Err(last) => {
                assert_eq!(last, Response::Exited(ended(9)));
                break;
            }
        }
    }
    assert!(skipped > 0);
    assert_eq!(skipped + heard, owner.heard.len() as u64);
}

#[tokio::test]
async fn a_program_without_a_client_waits_for_whoever_types_and_not_for_whoever_watches() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let script = "read x; head -c 3000000 /dev/zero | tr '\\0' x; exit 9";
    let wanted = Join { new: Some(program(script, true)), ..typing(NAME) };
    let (watcher, mut one) = {
        let (mut one, ..) = joins(&host, wanted).await;
        let (watcher, ..) = joins(&host, join(NAME)).await;
        one.say("\n").await;
        (watcher, one)
    };
    assert_eq!(one.answer().await, Response::Exited(ended(9)));
    assert_eq!(one.heard.len(), 3_000_002);
    drop(watcher);
    // Without anybody who types it runs on, however slowly the one who watches reads.
    let wanted = program("echo up; read x; head -c 3000000 /dev/zero | tr '\\0' x", true);
    let mut owner = Client::attach(&host, new(wanted)).await;
    let (_watcher, ..) = joins(&host, join("s1")).await;
    owner.say("\n").await;
    // What is on its way when a client leaves need not arrive, so it waits until it has.
    owner.until("xxxx").await;
    drop(owner);
    until(&host, "s1", |session| session.exited.is_some()).await;
}

#[tokio::test]
async fn only_so_many_join() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let _owner = Client::attach(&host, new(program("cat", true))).await;
    let mut all = Vec::new();
    for _ in 0..crate::sessions::join::JOINED_MAX {
        all.push(joins(&host, join("s1")).await);
    }
    assert_eq!(refused(&host, &Request::Join(join("s1"))).await, ErrorCode::Limit);
    ask(&host, &Request::Kill { id: "s1".to_owned(), signal: 9 }).await;
}

proptest! {
    #[test]
    fn no_id_that_is_made_up_is_a_name(number in any::<u64>(), text in ".{0,80}") {
        for id in [format!("s{number}"), format!("j{number}"), INIT.to_owned()] {
            prop_assert!(!crate::sessions::join::is_name(&id));
        }
        if crate::sessions::join::is_name(&text) {
            prop_assert!(!text.starts_with('j') && text.contains('_'));
        }
    }
}

use base::ids::UserId;
use orchestrator::{publications::Guard, testing};

use super::*;

fn publication(sandbox: &SandboxId) -> Publication {
    Publication {
        id: PublicationId::random(),
        sandbox: sandbox.clone(),
        owner: UserId::random(),
        port: 80,
        place: Where::HostPort(1),
        guard: Guard::Open,
        allow: Vec::new(),
        created_at: 0,
    }
}

/// A client of its own for each number.
fn client(number: usize) -> IpAddr {
    let [.., high, low] = number.to_be_bytes();
    [192, 0, high, low].into()
}

#[tokio::test(start_paused = true)]
async fn a_publication_leaves_room_for_another_and_both_for_the_owner() {
    let (doors, house) = (Doors::new(), SandboxId::random());
    let (one, two) = (publication(&house), publication(&house));
    let [one, two] = [&one, &two].map(|one| doors.of(one));
    let mut places = Vec::new();
    for number in 0..PLACES {
        places.push(one.place(client(number)).await.unwrap());
    }
    let late = client(PLACES);
    assert_eq!(one.place(late).await.unwrap_err().code, ErrorCode::HostOverloaded);
    for number in 0..HOUSE_PLACES - PLACES {
        places.push(two.place(client(number)).await.unwrap());
    }
    assert_eq!(two.place(late).await.unwrap_err().code, ErrorCode::HostOverloaded);
    let elsewhere = doors.of(&publication(&SandboxId::random()));
    elsewhere.place(late).await.unwrap();
    places.clear();
    one.place(late).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_has_a_share_and_waits_for_the_rest() {
    let doors = Doors::new();
    let door = doors.of(&publication(&SandboxId::random()));
    let [one, neighbour, other] =
        ["2001:db8::1", "2001:db8::ffff", "2001:db8:0:1::1"].map(|ip| ip.parse().unwrap());
    let mut places = Vec::new();
    for _ in 0..SHARE_PLACES {
        places.push(door.place(one).await.unwrap());
    }
    assert_eq!(door.place(neighbour).await.unwrap_err().code, ErrorCode::HostOverloaded);
    let others = door.place(other).await.unwrap();
    let waiting = tokio::spawn({
        let door = Arc::clone(&door);
        async move { door.place(neighbour).await.map(drop) }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    places.pop();
    waiting.await.unwrap().unwrap();
    drop((places, others));
    assert!(lock(&door.shares).is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_its_own_share_leaves_room_to_wait() {
    let doors = Doors::new();
    let door = doors.of(&publication(&SandboxId::random()));
    let (one, other) = (client(1), client(2));
    let places: Vec<_> =
        futures_util::future::join_all((0..SHARE_PLACES).map(|_| door.place(one))).await;
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..2 * SHARE_WAITING {
        let door = Arc::clone(&door);
        waiting.spawn(async move { door.place(one).await.map(drop) });
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(door.waiting.load(Ordering::Relaxed), SHARE_WAITING);
    door.place(other).await.unwrap();
    drop((places, waiting));
}

#[tokio::test]
async fn nothing_is_kept_of_those_through_whom_nobody_comes() {
    let doors = Doors::new();
    let one = publication(&SandboxId::random());
    let door = doors.of(&one);
    let place = door.place(client(1)).await.unwrap();
    assert!(Arc::ptr_eq(&door, &doors.of(&one)));
    drop(door);
    assert_eq!((lock(&doors.open).len(), lock(&doors.houses).len()), (1, 1));
    drop(place);
    assert_eq!((lock(&doors.open).len(), lock(&doors.houses).len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_wake_that_failed_is_not_tried_again_by_whoever_comes_next() {
    let (doors, (sandbox, agent)) = (Doors::new(), testing::sandbox_of_nobody().await);
    let publication = publication(&sandbox.view().id);
    agent.power.fail();
    for _ in 0..3 {
        // Each finds nobody there.
        doors.of(&publication).enter(&sandbox, client(1)).await.unwrap_err();
    }
    assert_eq!(agent.power.wakes(), 1);
    tokio::time::advance(2 * RETRY).await;
    doors.of(&publication).enter(&sandbox, client(1)).await.unwrap_err();
    assert_eq!(agent.power.wakes(), 2);
}

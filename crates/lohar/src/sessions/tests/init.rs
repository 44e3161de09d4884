//! The session named `init`.

use super::*;

#[tokio::test]
async fn init_is_started_again_as_its_policy_says_with_its_clients() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let go = fifo(&guest, "go");
    let command = format!("stty size; read x < {}; exit $x", go.display());
    let start = || {
        let restart = RestartPolicy::OnFailure;
        Request::StartInit(Init { command: command.clone(), argv: Vec::new(), restart })
    };
    assert_eq!(ask(&host, &start()).await, Response::Done);
    assert_eq!(refused(&host, &start()).await, ErrorCode::Invalid);
    let mut client = Client::attach(&host, to(INIT)).await;
    client.until("24 80\r\n").await;
    client.resize(9, 99).await;
    tell(&go, "3\n").await;
    client.until("[bhatti: ended with 3; starts again in 100 ms]\r\n9 99\r\n").await;
    let info = until(&host, INIT, |session| session.restarts == 1).await;
    assert_eq!((info.exited, info.attached), (None, true));
    assert_ne!(info.pid, client.session.pid);
    tell(&go, "0\n").await;
    assert_eq!(client.answer().await, Response::Exited(ended(0)));
    assert!(client.text().ends_with("[bhatti: ended with 0]\r\n"), "{}", client.text());
    assert_eq!(refused(&host, &start()).await, ErrorCode::Invalid);
    assert_eq!(until(&host, INIT, |_| true).await.exited, Some(ended(0)));
}

#[tokio::test]
async fn init_that_its_owner_kills_stays_dead_and_one_that_dies_does_not() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let command = "echo up $$; exec sleep 1000".to_owned();
    let init = Init { command, argv: Vec::new(), restart: RestartPolicy::Always };
    assert_eq!(ask(&host, &Request::StartInit(init)).await, Response::Done);
    let mut client = Client::attach(&host, to(INIT)).await;
    client.until("up").await;
    let pid = rustix::process::Pid::from_raw(client.session.pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    client.until("ended by signal 9; starts again").await;
    until(&host, INIT, |session| session.restarts == 1).await;
    let kill = Request::Kill { id: INIT.to_owned(), signal: 15 };
    assert_eq!(ask(&host, &kill).await, Response::Done);
    let Response::Exited(exited) = client.answer().await else { panic!() };
    assert_eq!(exited.signal, Some(15));
    assert_eq!(ask(&host, &kill).await, Response::Done);
}

#[tokio::test]
async fn init_can_be_stopped_while_it_waits_for_its_next_start() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let init =
        Init { command: "exit 5".to_owned(), argv: Vec::new(), restart: RestartPolicy::Always };
    assert_eq!(ask(&host, &Request::StartInit(init)).await, Response::Done);
    let mut client = Client::attach(&host, to(INIT)).await;
    client.until("starts again in 800 ms").await;
    let kill = Request::Kill { id: INIT.to_owned(), signal: 15 };
    assert_eq!(ask(&host, &kill).await, Response::Done);
    assert_eq!(client.answer().await, Response::Exited(ended(5)));
    assert!(client.text().contains("[bhatti: stopped]"));
}

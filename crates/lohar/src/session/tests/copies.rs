use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;
use crate::testing::{interface, run};

const OTHER_TOKEN: &str = "ffeeddccbbaa99887766554433221100";

/// Who a copy becomes.
fn other(hostname: &str) -> Identify {
    Identify {
        sandbox_id: "two".to_owned(),
        hostname: hostname.to_owned(),
        machine_id: "f".repeat(32),
        token: OTHER_TOKEN.to_owned(),
        env: [("NEW".to_owned(), "variable".to_owned())].into(),
        defaults: identity().defaults,
        interface: Some(interface([10, 208, 0, 3])),
        refresh: Refresh { time_ns: 1_800_000_000_000_000_000, seed: "ef".repeat(32) },
    }
}

fn proving(host: &Session, token: &str) -> Request {
    let token = hex::decode(token).unwrap();
    hello(Some(prove(&token, Role::Host, &host.peer().nonce)))
}

fn text(guest: &Guest, path: &str) -> String {
    fs::read_to_string(guest.path().join(path)).unwrap()
}

#[tokio::test]
async fn a_copy_becomes_another_sandbox_in_every_part() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let dbus = guest.path().join("var/lib/dbus");
    fs::create_dir_all(&dbus).unwrap();
    fs::write(dbus.join("machine-id"), "longer than any machine id is, by far\n").unwrap();
    // Somebody who lives there adds another machine.
    let hosts = text(&guest, "etc/hosts") + "10.0.0.1 db\n";
    fs::write(guest.path().join("etc/hosts"), &hosts).unwrap();
    let nameless = hosts.replace("127.0.1.1 box-1\n", "");
    assert_ne!(nameless, hosts);
    for name in ["a-name-that-is-longer", "b"] {
        let wanted = other(name);
        let identified = ask(&host, &Request::Identify(wanted.clone())).await;
        assert_eq!(identified, Response::Identified);
        assert_eq!(*guest.kernel.hostname.lock().unwrap(), name);
        assert_eq!(text(&guest, "etc/hostname"), format!("{name}\n"));
        assert_eq!(text(&guest, "etc/hosts"), format!("{nameless}127.0.1.1 {name}\n"));
        for path in ["etc/machine-id", "var/lib/dbus/machine-id"] {
            assert_eq!(text(&guest, path), format!("{}\n", wanted.machine_id), "{path}");
        }
        let clock = guest.kernel.clock.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(clock, wanted.refresh.time_ns);
        assert_eq!(guest.kernel.seeds.lock().unwrap().last(), Some(&[0xef; 32]));
    }
    let (env, ..) = run(&host, shell("echo $NEW; echo $FROM")).await;
    assert_eq!(env, "variable\n\n");
    let Response::Welcome(welcome) = ask(&host, &proving(&host, OTHER_TOKEN)).await else {
        panic!()
    };
    assert_eq!(welcome.sandbox_id.as_deref(), Some("two"));
}

#[tokio::test]
async fn who_knew_the_former_sandbox_is_let_in_no_more() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let (owner, stranger) = (guest.owned().await, guest.connect().await);
    let mut watching = open(&owner, &Request::ActivityWatch).await;
    assert!(matches!(hear(&mut watching).await, Response::Activity(_)));
    assert_eq!(ask(&host, &Request::Identify(other("b"))).await, Response::Identified);
    for ended in [&owner, &stranger] {
        timeout(PATIENCE, ended.closed()).await.unwrap();
    }
    assert!(timeout(PATIENCE, watching.recv()).await.unwrap().is_err());
    assert_eq!(ask(&host, &Request::Ping).await, Response::Done);
    let late = guest.connect().await;
    let old = proving(&late, TOKEN);
    assert_eq!(code(&late, &old).await, ErrorCode::Unauthenticated);
    let late = guest.connect().await;
    let new = proving(&late, OTHER_TOKEN);
    assert!(matches!(ask(&late, &new).await, Response::Welcome(_)));
}

#[tokio::test]
async fn only_a_host_that_has_proved_itself_may_make_it_another() {
    let guest = Guest::new().await;
    let maker = guest.connect().await;
    assert!(matches!(ask(&maker, &hello(None)).await, Response::Welcome(_)));
    let host = guest.owned().await;
    // It was to make a sandbox of an agent that was nobody; now it is somebody.
    timeout(PATIENCE, maker.closed()).await.unwrap();
    let stranger = guest.connect().await;
    let refused = code(&stranger, &Request::Identify(other("b"))).await;
    assert_eq!(refused, ErrorCode::Unauthenticated);
    assert_eq!(text(&guest, "etc/hostname"), "box-1\n");
    assert_eq!(ask(&host, &Request::Ping).await, Response::Done);
}

#[tokio::test]
async fn each_part_of_a_new_identity_that_does_not_hold_fails_the_whole_and_is_named() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let refused = async || {
        let answer = ask(&host, &Request::Identify(other("b"))).await;
        let Response::Error(error) = answer else { panic!("{answer:?}") };
        let identity = guest.agent.identity().unwrap();
        assert_eq!((identity.sandbox_id.as_str(), error.code), ("one", ErrorCode::Failed));
        error.message
    };
    for (part, name) in [
        (Part::Clock, "clock"),
        (Part::Entropy, "entropy"),
        (Part::Hostname, "hostname"),
        (Part::Interface, "interface"),
    ] {
        *guest.kernel.broken.lock().unwrap() = Some(part);
        let message = refused().await;
        assert!(message.starts_with(&format!("{name}: ")), "{message}");
    }
    *guest.kernel.broken.lock().unwrap() = None;
    for name in ["hostname", "hosts", "machine-id", "resolv.conf"] {
        let path = guest.path().join("etc").join(name);
        fs::remove_file(&path).unwrap();
        // Takes everything and keeps nothing; then cannot be written at all.
        symlink("/dev/null", &path).unwrap();
        assert_eq!(refused().await, format!("/etc/{name}: does not hold"));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let message = refused().await;
        assert!(message.starts_with(&format!("/etc/{name}: ")), "{message}");
        fs::remove_dir(&path).unwrap();
    }
    assert_eq!(ask(&host, &Request::Identify(other("b"))).await, Response::Identified);
}

#[tokio::test]
async fn programs_can_notice_that_the_guest_was_restored_or_copied() {
    let guest = Guest::new().await;
    let path = guest.path().join("run/bhatti/generation");
    let meta = || fs::metadata(&path).unwrap();
    let first = meta();
    assert_eq!((first.permissions().mode() & 0o7777, first.len()), (0o444, 33));
    let mut known = vec![text(&guest, "run/bhatti/generation")];
    let host = guest.owned().await;
    let mut refreshing = proving(&host, TOKEN);
    let Request::Hello(hello) = &mut refreshing else { panic!() };
    hello.refresh = Some(identity().refresh);
    for request in [refreshing, Request::Refresh(identity().refresh), Request::Identify(other("b"))]
    {
        let now = text(&guest, "run/bhatti/generation");
        assert!(!known.contains(&now), "{known:?}");
        assert_eq!(ask(&host, &Request::Ping).await, Response::Done);
        assert_eq!(text(&guest, "run/bhatti/generation"), now);
        known.push(now);
        assert!(!matches!(ask(&host, &request).await, Response::Error(_)));
    }
    let last = text(&guest, "run/bhatti/generation");
    assert!(!known.contains(&last), "{known:?}");
    let digits = last.strip_suffix('\n').unwrap();
    assert!(digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()), "{last}");
    // The same file throughout, for those who have it open.
    assert_eq!((meta().ino(), meta().len()), (first.ino(), first.len()));
}

//! Where a registry must not lead.

use std::sync::{Arc, Mutex};

use base::process::Command;
use registry::{Client, Credentials, Kind, Options, Reach, Resolver};

use crate::{
    image::image,
    kind, options, request, resolve,
    server::{Reply, Server},
};

#[tokio::test]
async fn redirects_to_what_is_not_the_internet_are_refused() {
    for to in [
        "http://169.254.169.254/latest/meta-data/",
        "https://169.254.169.254/",
        "https://[::ffff:169.254.169.254]/",
        "https://[64:ff9b::a9fe:a9fe]/",
        "https://10.0.0.1/",
        "https://0xa000001/",
        "https://192.168.1.1:8443/",
        "https://[fd00::1]/",
        "https://0.0.0.0/",
        "http://1.1.1.1/",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "ftp://localhost/",
        "//10.0.0.1/x",
        "https://user:pass@1.1.1.1/",
    ] {
        let server = Server::start(move |_| Reply::redirect(to)).await;
        assert_eq!(kind(resolve(&server).await), Some(Kind::Forbidden), "{to}");
        assert_eq!(server.asked().len(), 1, "{to}");
    }
}

#[tokio::test]
async fn tokens_are_not_had_from_what_is_not_the_internet() {
    for realm in ["https://169.254.169.254/", "https://10.1.1.1/t", "http://1.1.1.1/"] {
        let server = Server::start(move |_| {
            let text = format!("Bearer realm=\"{realm}\"");
            Reply::new("401 Unauthorized", &[("WWW-Authenticate", &text)], b"")
        });
        assert_eq!(kind(resolve(&server.await).await), Some(Kind::Forbidden), "{realm}");
    }
}

#[tokio::test]
async fn redirects_end() {
    let server = Server::start(|asked| Reply::redirect(&asked.path)).await;
    assert_eq!(kind(resolve(&server).await), Some(Kind::Malformed));
    assert_eq!(server.asked().len(), 6);
    let nowhere = Server::start(|_| Reply::new("302 Found", &[], b"")).await;
    assert_eq!(kind(resolve(&nowhere).await), Some(Kind::Malformed));
    for to in ["https://", "http://[::1", "\u{1}"] {
        let server = Server::start(move |_| Reply::redirect(to)).await;
        assert!(resolve(&server).await.is_err(), "{to:?}");
    }
}

#[tokio::test]
async fn this_host_is_reached_only_where_that_is_allowed() {
    let server = Server::start(|_| Reply::not_found()).await;
    let port = server.address.port();
    let resolver = Resolver::new(|_| {
        Box::pin(async { Ok(vec!["127.0.0.1".parse().unwrap(), "1.1.1.1".parse().unwrap()]) })
    });
    for host in ["127.0.0.1", "localhost", "127.1", "registry.example"] {
        let options = Options { reach: Reach::default(), resolver: resolver.clone(), ..options() };
        let found = Client::new(options).unwrap();
        let found = found.resolve(&request(&format!("{host}:{port}/x"), None)).await;
        assert_eq!(kind(found), Some(Kind::Forbidden), "{host}");
    }
    // Nor by a name that only says it is somewhere else.
    let options = Options { resolver, ..options() };
    let found = Client::new(options).unwrap();
    let found = found.resolve(&request(&format!("registry.example:{port}/x"), None)).await;
    assert_eq!(kind(found), Some(Kind::Forbidden));
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn a_name_that_changes_its_meaning_is_asked_again_and_judged_again() {
    let content = image(&[b"one"]);
    let server = Server::start(move |asked| content.answer(asked)).await;
    let answers = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&answers);
    // The first two connections find out the scheme and get the manifest.
    let resolver = Resolver::new(move |_| {
        let mut n = counted.lock().unwrap();
        *n += 1;
        let address = if *n <= 2 { "127.0.0.1" } else { "169.254.169.254" };
        Box::pin(async move { Ok(vec![address.parse().unwrap()]) })
    });
    let client = Client::new(Options { resolver, ..options() }).unwrap();
    let request = request(&format!("localhost:{}/x", server.address.port()), None);
    assert_eq!(kind(client.resolve(&request).await), Some(Kind::Forbidden));
    assert_eq!((*answers.lock().unwrap(), server.asked().len()), (3, 1));
}

#[tokio::test]
async fn a_name_without_an_address_is_not_reached() {
    for fails in [true, false] {
        let resolver = Resolver::new(move |_| {
            Box::pin(async move {
                if fails { Err(std::io::Error::other("no such name")) } else { Ok(Vec::new()) }
            })
        });
        let client = Client::new(Options { resolver, ..options() }).unwrap();
        let found = client.resolve(&request("r.example/x", None)).await;
        assert_eq!(kind(found), Some(Kind::Unreachable));
    }
}

#[tokio::test]
async fn credentials_are_not_sent_to_another_host_without_tls() {
    if !in_private_network("credentials_are_not_sent_to_another_host_without_tls") {
        return;
    }
    let content = image(&[b"one"]);
    let server = Server::at(&format!("{PRIVATE}:0"), None, move |asked| {
        match asked.headers.contains_key("authorization") {
            false => Reply::new("401 Unauthorized", &[("WWW-Authenticate", "Basic")], b""),
            true => content.answer(asked),
        }
    })
    .await;
    let host = server.address.to_string();
    let reach = Reach { private: vec![host.clone()], insecure: vec![host.clone()], loopback: true };
    let client = Client::new(Options { reach: reach.clone(), ..options() }).unwrap();
    let credentials = Some(Credentials::new("who", "s3cret"));
    let found = client.resolve(&request(&format!("{host}/x"), credentials)).await;
    assert_eq!(kind(found), Some(Kind::Unauthorized));
    assert!(server.asked().iter().all(|asked| !asked.headers.contains_key("authorization")));

    // Without being listed as insecure it is not spoken to without TLS.
    let reach = Reach { private: vec![server.address.to_string()], ..Reach::default() };
    let client = Client::new(Options { reach, ..options() }).unwrap();
    let found = client.resolve(&request(&format!("{}/x", server.address), None)).await;
    assert_eq!(kind(found), Some(Kind::Unreachable));
}

#[tokio::test]
async fn a_registry_elsewhere_does_not_lead_to_this_host_whatever_is_allowed() {
    if !in_private_network("a_registry_elsewhere_does_not_lead_to_this_host_whatever_is_allowed") {
        return;
    }
    let to = Server::start(|_| Reply::not_found()).await;
    let port = to.address.port();
    let leads = Server::at(&format!("{PRIVATE}:0"), None, move |_| {
        Reply::redirect(&format!("http://127.0.0.1:{port}/"))
    })
    .await;
    let host = leads.address.to_string();
    let reach = Reach {
        private: vec![host.clone()],
        insecure: vec![host.clone(), "127.0.0.1".to_owned()],
        loopback: true,
    };
    let client = Client::new(Options { reach, ..options() }).unwrap();
    let found = client.resolve(&request(&format!("{host}/x"), None)).await;
    assert_eq!(kind(found), Some(Kind::Forbidden));
    assert!(to.asked().is_empty());
}

const PRIVATE: &str = "10.55.0.1";
/// Says to a test that it is where it wants to be.
const MARKER: &str = "BHATTI_TEST_IN_PRIVATE_NETWORK";

/// Whether this process has a private address, at which somebody can answer. If not, the test of
/// this name has been done by one that has.
fn in_private_network(test: &str) -> bool {
    if std::env::var_os(MARKER).is_some() {
        return true;
    }
    let own = std::env::current_exe().unwrap();
    let script = format!(
        "ip link set lo up && ip address add {PRIVATE}/32 dev lo && exec \"$0\" --exact ways::{test}"
    );
    let command = Command::new("unshare").args(["--map-root-user", "--net", "sh", "-c", &script]);
    let said = command.arg(own).env(MARKER, "1").output().unwrap();
    assert!(String::from_utf8_lossy(&said).contains("1 passed"));
    false
}

//! How long a publication lasts.

use e2e::{Guest, refused};

use super::*;

#[tokio::test]
async fn it_outlives_the_daemon_and_ends_with_the_sandbox() {
    let mut node = start();
    let guest = site(&node, "dev", "web").await;
    node.restart();
    assert!(hello(&get(&node, "/web/").await));
    node.kill9();
    node.restart();
    assert!(hello(&get(&node, "/web/").await));
    let mut guest = guest.by(node.admin());
    let url = format!("http://{}/web/", node.public());
    assert_eq!(guest.view().await.urls, std::slice::from_ref(&url));
    for command in [&["list"][..], &["inspect", "dev"], &["published"], &["published", "dev"]] {
        let shown = String::from_utf8(node.cli(command).stdout).unwrap();
        assert!(shown.contains(&url), "{command:?}: {shown}");
    }
    guest.client.destroy(&guest.id).await.unwrap();
    assert_eq!(get(&node, "/web/").await.error().code, ErrorCode::NotPublished);
    let _next = site(&node, "next", "web").await;
    assert!(hello(&get(&node, "/web/").await));
}

#[tokio::test]
async fn copies_are_not_published() {
    let node = start();
    let mut guest = site(&node, "dev", "web").await;
    let copies = guest.copies("copy", 1).await.unwrap();
    guest.checkpoint("snap").await;
    let mut resumed = Guest::resumed(node.admin(), "snap", "resumed").await;
    assert!(copies[0].urls.is_empty() && resumed.view().await.urls.is_empty());
    assert!(resumed.client.published(&copies[0].id).await.unwrap().is_empty());
    assert!(hello(&get(&node, "/web/").await));
}

#[tokio::test]
async fn commands_publish_and_withdraw() {
    let node = start();
    let mut guest = Guest::create(&node, "dev").await;
    serve(&mut guest, 8000).await;
    let made = node.cli(&["publish", "dev", "-p", "8000", "--alias", "web", "--auth", "token"]);
    let (stdout, stderr) =
        (String::from_utf8(made.stdout).unwrap(), String::from_utf8(made.stderr).unwrap());
    assert_eq!(stdout.trim(), format!("http://{}/web/", node.public()), "{stderr}");
    let token =
        stderr.lines().find_map(|line| line.strip_prefix("token (shown only now): ")).unwrap();
    let bearer = format!("authorization: Bearer {token}");
    assert!(hello(&raw::tcp(node.public(), "GET", "/web/", &[&bearer]).await));
    let again = node.cli(&["publish", "dev", "-p", "8000", "--auth", "token"]);
    assert!(again.status.success() && !String::from_utf8(again.stderr).unwrap().contains("bpt_"));
    let differs = node.cli(&["publish", "dev", "-p", "8000"]);
    let told = String::from_utf8(differs.stderr).unwrap();
    assert!(!differs.status.success() && told.contains("bhatti unpublish dev -p 8000"), "{told}");
    let gone = node.cli(&["unpublish", "dev", "-p", "8000"]);
    assert_eq!(String::from_utf8(gone.stdout).unwrap(), "port 8000 of sandbox/dev unpublished\n");
    assert_eq!(refused(guest.client.unpublish("dev", 8000).await).code, ErrorCode::NotPublished);
    assert_eq!(get(&node, "/web/").await.status, 404);
}

#[tokio::test]
async fn without_a_public_listener_nothing_serves_it_yet() {
    let node = Node::start();
    let _guest = Guest::create(&node, "dev").await;
    let made = node.cli(&["publish", "dev", "-p", "80", "-a", "web"]);
    assert_eq!(String::from_utf8(made.stdout).unwrap(), "web\n");
    assert!(String::from_utf8(made.stderr).unwrap().contains("no URL serves it yet"));
}

#[tokio::test]
async fn an_api_that_others_reach_is_encrypted_and_its_authority_can_be_trusted() {
    let node = with("tls = 'local-ca'\n[public]\nlisten = '127.0.0.1:0'\ntls = 'local-ca'\n");
    let ca = node.cli(&["ca"]);
    let path = node.data().join("trusted.pem");
    fs_err::write(&path, ca.stdout).unwrap();
    let key = fs_err::read_to_string(node.data().join("admin.key")).unwrap();
    let url = format!("https://localhost:{}", node.tcp().port());
    let path = path.to_str().unwrap();
    let args = ["--url", &url, "--token", key.trim(), "list", "--json"];
    let trusting = node.cli(&[&["--ca", path], &args[..]].concat());
    assert_eq!(trusting.stdout, b"[]\n", "{}", String::from_utf8_lossy(&trusting.stderr));
    let told = String::from_utf8(node.cli(&args).stderr).unwrap();
    assert!(told.contains("--ca FILE"), "{told}");
    let plain = format!("http://localhost:{}", node.tcp().port());
    assert!(!node.cli(&["--url", &plain, "--token", key.trim(), "list"]).status.success());
    // Whom to trust is stored with the rest, and is not for what is not encrypted.
    let setup = ["setup", "--url", &url, "--token", key.trim(), "--ca", path];
    let stored = node.cli(&setup);
    let told = String::from_utf8(stored.stderr).unwrap();
    assert!(stored.status.success() && !told.contains("not encrypted"), "{told}");
    let listed = node.cli(&["list", "--json"]);
    assert_eq!(listed.stdout, b"[]\n", "{}", String::from_utf8_lossy(&listed.stderr));
    let pointless = node.cli(&["--url", &plain, "--token", "x", "--ca", path, "list"]);
    let told = String::from_utf8(pointless.stderr).unwrap();
    assert!(told.contains("--ca is for what is encrypted"), "{told}");
    let doctor = String::from_utf8(node.cli(&["doctor"]).stdout).unwrap();
    assert!(doctor.contains("local-ca, for api and public: 36"), "{doctor}");
}

#[tokio::test]
async fn a_daemon_whose_authority_does_not_answer_serves_and_says_so() {
    let node = with(
        "[public]\nlisten = '127.0.0.1:0'\nzone = 'pub.example'\nhttp_listen = '127.0.0.1:0'\n\
         [acme]\nagree_to_terms = true\nnames = ['box.example']\n\
         directory = 'https://127.0.0.1:9/directory'\n",
    );
    node.expect_warning("no certificate for box.example");
    let doctor = String::from_utf8(node.cli(&["doctor"]).stdout).unwrap();
    assert!(doctor.contains("acme, for public, box.example: none yet"), "{doctor}");
    let state = node.admin().network().await.unwrap();
    assert_eq!(state.certificates[0].names, ["box.example"]);
}

//! Whose aliases they are, and who comes in.

use api::{CreateUser, PublishAuth};
use e2e::{create_request, refused, servers::ECHO};

use super::*;

#[tokio::test]
async fn an_alias_is_one_user_s_and_so_is_a_sandbox() {
    let node = start();
    let _mine = site(&node, "dev", "web").await;
    let mut mine = node.admin();
    let key = node.user(CreateUser { name: "bob".to_owned(), ..CreateUser::default() }).await;
    let mut theirs = Guest::create_by(node.client(&key), create_request("dev")).await;
    let request =
        |alias: &str| Publish { port: 8000, alias: Some(alias.to_owned()), ..Publish::default() };
    let taken = theirs.client.publish(&theirs.id, &request("web")).await;
    assert_eq!(refused(taken).code, ErrorCode::AliasTaken);
    let id = mine.sandbox("dev").await.unwrap().id;
    for outcome in [
        theirs.client.publish(&id, &request("other")).await.map(drop),
        theirs.client.published(&id).await.map(drop),
        theirs.client.unpublish(&id, 8000).await,
    ] {
        assert_eq!(refused(outcome).code, ErrorCode::SandboxNotFound);
    }
    assert!(theirs.client.all_published().await.unwrap().is_empty());
    let any = Publish { port: 1, ..Publish::default() };
    let made = theirs.client.publish(&theirs.id, &any).await;
    let alias = made.unwrap().0.alias.unwrap();
    assert!(alias.starts_with("dev-") && alias.len() == 10, "{alias}");
    let odd = theirs.client.publish(&theirs.id, &request("www")).await;
    assert_eq!(refused(odd).code, ErrorCode::InvalidName);
    let differs = mine.publish(&id, &request("another")).await;
    assert_eq!(refused(differs).code, ErrorCode::PublishDiffers);
    assert!(mine.publish(&id, &request("web")).await.unwrap().1);
}

#[tokio::test]
async fn tokens_passwords_and_addresses_open_doors() {
    let node = start();
    let mut guest = Guest::create(&node, "dev").await;
    let (token, basic, far) =
        (Some(PublishAuth::Token), Some(PublishAuth::Basic), vec!["192.0.2.0/24".to_owned()]);
    let mut secrets = Vec::new();
    for (port, auth, allow_cidr) in
        [(8001, token, vec![]), (8002, basic, vec![]), (8003, None, far)]
    {
        answer_with(&mut guest, port, ECHO).await;
        let alias = Some(format!("p{port}"));
        let request = Publish { port, alias, auth, allow_cidr, ..Publish::default() };
        secrets.push(guest.client.publish(&guest.id, &request).await.unwrap().0.secret);
    }
    let ask = async |path: &str, authorization: &str| {
        let header = format!("authorization: {authorization}");
        let answer = raw::tcp(node.public(), "GET", path, &[&header]).await;
        (answer.status, String::from_utf8(answer.body).unwrap().to_lowercase())
    };
    let token = format!("Bearer {}", secrets[0].as_deref().unwrap());
    let (status, seen) = ask("/p8001/", &token).await;
    assert!(status == 200 && !seen.contains("authorization"), "{seen}");
    let pair = format!("bhatti:{}", secrets[1].as_deref().unwrap());
    let encoded = guest.sh(&format!("printf %s '{pair}' | base64 | tr -d '\\n'")).await;
    let (status, seen) = ask("/p8002/", &format!("Basic {encoded}")).await;
    assert!(status == 200 && !seen.contains("authorization"), "{seen}");
    for (path, status) in [("/p8001/", 401), ("/p8002/", 401), ("/p8003/", 403)] {
        assert_eq!(ask(path, "Bearer bht_wrong").await.0, status, "{path}");
    }
    let listed = guest.client.published(&guest.id).await.unwrap();
    assert!(listed.iter().all(|rule| rule.secret.is_none()));
}

#[tokio::test]
async fn an_api_key_means_nothing_to_the_public_listener() {
    let node = start();
    let _guest = site(&node, "dev", "web").await;
    let key = fs_err::read_to_string(node.data().join("admin.key")).unwrap();
    let key = format!("authorization: Bearer {}", key.trim());
    for path in ["/sandboxes", "/health", "/sandboxes/dev/proxy/8000/", "/users"] {
        let answer = raw::tcp(node.public(), "GET", path, &[&key]).await;
        assert_eq!(answer.status, 404, "{path}");
    }
}

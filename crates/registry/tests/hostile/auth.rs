//! Who gets to see credentials.

use std::sync::Arc;

use registry::{Client, Credentials, Kind, Options};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::{
    image::image,
    kind, options, request, resolve, resolve_as,
    server::{Asked, Reply, Server},
};

/// `who:s3cret`
const BASIC: &str = "Basic d2hvOnMzY3JldA==";

fn who() -> Option<Credentials> {
    Some("who:s3cret".parse().unwrap())
}

fn proof(asked: &Asked) -> Option<&str> {
    asked.headers.get("authorization").map(String::as_str)
}

fn challenge(text: &str) -> Reply {
    Reply::new("401 Unauthorized", &[("WWW-Authenticate", text)], b"")
}

#[tokio::test]
async fn a_token_is_had_from_where_the_registry_says_and_used() {
    let tokens = Server::start(|asked| {
        let token = if proof(asked) == Some(BASIC) { "mine" } else { "anybodys" };
        Reply::ok(format!("{{\"access_token\":\"{token}\",\"expires_in\":60}}").as_bytes())
    })
    .await;
    let realm = format!("Bearer realm=\"http://{}/t?a=b\",service=\"s t\"", tokens.address);
    let content = image(&[b"one"]);
    let server = Server::start(move |asked| match proof(asked) {
        Some("Bearer mine") if asked.path.contains("/blobs/") => content.answer(asked),
        Some("Bearer mine" | "Bearer anybodys") if asked.path.contains("/manifests/") => {
            content.answer(asked)
        }
        _ => challenge(&realm),
    })
    .await;
    resolve_as(&server, who()).await.unwrap();
    assert_eq!(tokens.asked().len(), 1);
    assert_eq!(tokens.asked()[0].path, "/t?a=b&service=s+t&scope=repository%3Ax%3Apull");
    // Once asked without a proof, then never again; the password itself went to nobody else.
    let proofs: Vec<_> = server.asked().iter().map(|a| proof(a).map(str::to_owned)).collect();
    assert_eq!(proofs[0], None);
    assert!(proofs[1..].iter().all(|p| p.as_deref() == Some("Bearer mine")), "{proofs:?}");

    assert_eq!(kind(resolve(&server).await), Some(Kind::Unauthorized));
}

#[tokio::test]
async fn name_and_password_are_sent_when_they_are_asked_for() {
    let content = image(&[b"one"]);
    let server = Server::start(move |asked| match proof(asked) {
        Some(BASIC) => content.answer(asked),
        _ => challenge("Basic realm=\"r\""),
    })
    .await;
    resolve_as(&server, who()).await.unwrap();
    assert_eq!(kind(resolve(&server).await), Some(Kind::Unauthorized));
    let wrong = resolve_as(&server, Some(Credentials::new("who", "else"))).await;
    let error = wrong.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    assert!(!format!("{error} {error:?}").contains("else"));
    assert_eq!(format!("{:?}", Credentials::new("who", "s3cret")), "Credentials(…)");
}

#[tokio::test]
async fn a_redirect_to_another_host_takes_no_proof_along_and_is_given_none() {
    let content = image(&[b"one"]);
    let blobs = content.clone();
    let elsewhere = Server::start(move |asked| blobs.answer(asked)).await;
    let asks = Server::start(|_| challenge("Basic realm=\"r\"")).await;
    for (target, expected) in [(&elsewhere, None), (&asks, Some(Kind::Unauthorized))] {
        let (content, to) = (content.clone(), target.address);
        let server = Server::start(move |asked| match proof(asked) {
            Some(BASIC) if asked.path.contains("/blobs/") => {
                Reply::redirect(&format!("http://{to}{}", asked.path))
            }
            Some(BASIC) => content.answer(asked),
            _ => challenge("Basic realm=\"r\""),
        })
        .await;
        assert_eq!(kind(resolve_as(&server, who()).await), expected);
        assert!(!target.asked().is_empty());
        assert!(target.asked().iter().all(|asked| proof(asked).is_none()));
    }
}

#[tokio::test]
async fn a_redirect_within_the_registry_keeps_the_proof() {
    let content = image(&[b"one"]);
    let server =
        Server::start(move |asked| match (proof(asked), asked.path.strip_prefix("/moved")) {
            (Some(BASIC), Some(path)) => {
                content.answer(&Asked { path: path.to_owned(), ..asked.clone() })
            }
            (Some(BASIC), None) => Reply::redirect(&format!("/moved{}", asked.path)),
            _ => challenge("Basic realm=\"r\""),
        })
        .await;
    resolve_as(&server, who()).await.unwrap();
}

#[tokio::test]
async fn tokens_that_are_none_and_challenges_nobody_knows_end_the_pull() {
    for (answer, expected) in [
        (&b"{}"[..], Kind::Malformed),
        (b"{\"token\":\"\"}", Kind::Malformed),
        (b"{\"token\":\"a\\r\\nX: y\"}", Kind::Unauthorized),
        (b"not json", Kind::Malformed),
        (&[b'x'; 100_000], Kind::TooLarge),
        (b"{\"token\":\"never accepted\"}", Kind::Unauthorized),
    ] {
        let tokens = Server::start(move |_| Reply::ok(answer)).await;
        let realm = format!("Bearer realm=\"http://{}/\"", tokens.address);
        let server = Server::start(move |_| challenge(&realm)).await;
        assert_eq!(kind(resolve(&server).await), Some(expected));
        assert!(tokens.asked().len() <= 2 && server.asked().len() <= 3);
    }
    for text in
        ["", "Negotiate", "Bearer realm=\"not a url\"", "Bearer realm=\"file:///etc/shadow\""]
    {
        let server = Server::start(move |_| challenge(text)).await;
        assert!(resolve(&server).await.is_err());
    }
}

#[tokio::test]
async fn a_registry_that_wants_fewer_requests_says_when() {
    let server = Server::start(|_| Reply::new("429 Slow", &[("Retry-After", "17")], b"")).await;
    let error = resolve(&server).await.unwrap_err();
    assert_eq!(error.kind(), Kind::RateLimited);
    assert_eq!(error.hint().unwrap(), "try again in 17 s");
}

struct Identity {
    certificate: CertificateDer<'static>,
    acceptor: TlsAcceptor,
}

fn identity() -> Identity {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let certificate = made.cert.der().clone();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    Identity { certificate, acceptor: TlsAcceptor::from(Arc::new(config)) }
}

#[tokio::test]
async fn tls_is_used_where_it_is_spoken_and_nobody_unknown_is_trusted() {
    let Identity { certificate, acceptor } = identity();
    let content = image(&[b"one"]);
    let plain = Server::start(|_| Reply::not_found()).await;
    let leads_to = plain.address;
    let server = Server::at("127.0.0.1:0", Some(acceptor), move |asked| match proof(asked) {
        Some(BASIC) if asked.path.contains("/moved/") => {
            Reply::redirect(&format!("http://localhost:{}/", leads_to.port()))
        }
        Some(BASIC) => content.answer(asked),
        _ => challenge("Basic realm=\"r\""),
    })
    .await;
    let port = server.address.port();
    let trusting = || Options { authorities: vec![certificate.clone()], ..options() };
    let good = request(&format!("localhost:{port}/x"), who());
    Client::new(trusting()).unwrap().resolve(&good).await.unwrap();

    let distrusting = Client::new(options()).unwrap().resolve(&good).await;
    assert_eq!(kind(distrusting), Some(Kind::Unreachable));
    // Of another name than its certificate.
    let other = request(&format!("127.0.0.1:{port}/x"), who());
    let other = Client::new(trusting()).unwrap().resolve(&other).await;
    assert_eq!(kind(other), Some(Kind::Unreachable));
    // From TLS to none, even where none would do.
    let down = request(&format!("localhost:{port}/moved/x"), who());
    let down = Client::new(trusting()).unwrap().resolve(&down).await;
    assert_eq!(kind(down), Some(Kind::Forbidden));
    assert!(plain.asked().is_empty());
}

use std::sync::Arc;

use proptest::prelude::*;
use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::ring};

use super::*;
use crate::egress::request::Body;

/// What a real client says first to a server of this name.
pub(crate) fn client_hello(name: &str) -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = name.to_owned().try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// Looks at bytes that come in pieces of this size.
fn look(bytes: &[u8], piece: usize) -> Start {
    let mut sniffer = Sniffer::default();
    let mut end = 0;
    while end < bytes.len() {
        end = (end + piece).min(bytes.len());
        match sniffer.look(&bytes[..end]) {
            Start::Incomplete => {}
            start => return start,
        }
    }
    Start::Incomplete
}

#[test]
fn a_real_hello_says_its_server_in_pieces_of_any_size() {
    let hello = client_hello("API.Example.com");
    for piece in [1, 2, 5, 100, 10_000] {
        assert_eq!(look(&hello, piece), Start::Tls(Some("api.example.com".into())), "{piece}");
    }
    assert_eq!(look(&client_hello("203.0.113.1"), 1000), Start::Tls(None));
    assert_eq!(look(&hello[..hello.len() - 1], 1000), Start::Incomplete);
}

/// Puts a handshake message into records of this size.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    let record = |part: &[u8]| {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&[HANDSHAKE, VERSION, 1], &length[..], part].concat()
    };
    message.chunks(size).flat_map(record).collect()
}

#[test]
fn a_hello_in_many_records_is_read_as_one() {
    let hello = client_hello("api.example.com");
    let split = records(&hello[5..], 7);
    for piece in [1, 1000] {
        assert_eq!(look(&split, piece), Start::Tls(Some("api.example.com".into())));
    }
}

/// A `ClientHello` with these extensions.
fn hello_with(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let long =
        |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
    let extensions: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, value)| [&kind.to_be_bytes()[..], &long(value)].concat())
        .collect();
    let body =
        [&[3, 3][..], &[7; 32], &[0], &long(&[0x13, 0x01]), &[1, 0], &long(&extensions)].concat();
    let size = u32::try_from(body.len()).unwrap().to_be_bytes();
    records(&[&[1], &size[1..], &body].concat(), 16_000)
}

fn server_names(names: &[&str]) -> Vec<u8> {
    let list: Vec<u8> = names
        .iter()
        .flat_map(|name| {
            let length = u16::try_from(name.len()).unwrap().to_be_bytes();
            [&[0], &length[..], name.as_bytes()].concat()
        })
        .collect();
    [&u16::try_from(list.len()).unwrap().to_be_bytes()[..], &list].concat()
}

/// What a hello has to have to be one: groups and signature schemes.
fn usual() -> Vec<(u16, Vec<u8>)> {
    vec![(10, vec![0, 2, 0, 29]), (13, vec![0, 2, 4, 3])]
}

#[test]
fn a_hello_that_names_two_servers_is_no_hello() {
    let with = |more: &[Vec<u8>]| {
        let mut extensions = usual();
        extensions.extend(more.iter().map(|names| (0, names.clone())));
        look(&hello_with(&extensions), 1000)
    };
    assert_eq!(with(&[server_names(&["a.test"])]), Start::Tls(Some("a.test".into())));
    assert_eq!(with(&[]), Start::Tls(None));
    assert_eq!(with(&[server_names(&["a.test"]), server_names(&["b.test"])]), Start::Broken);
    assert!(!matches!(with(&[server_names(&["a.test", "b.test"])]), Start::Tls(Some(_))));
    assert!(!matches!(with(&[server_names(&["a.test\0.evil"])]), Start::Tls(Some(_))));
}

#[test]
fn a_hello_without_end_is_broken() {
    let mut endless = vec![HANDSHAKE, VERSION, 1, 0x40, 0, 1, 0, 0xff, 0xff];
    endless.resize(5 + 0x4000, 7);
    let record = [&[HANDSHAKE, VERSION, 1, 0x40, 0][..], &[7; 0x4000]].concat();
    for _ in 0..5 {
        endless.extend(&record);
    }
    assert_eq!(look(&endless, 4000), Start::Broken);
}

#[test]
fn requests_are_told_from_other_protocols() {
    let Start::Http(head) = look(b"GET / HTTP/1.1\r\nHost: A.test\r\n\r\n", 1) else { panic!() };
    assert_eq!(head.host.as_deref(), Some("a.test"));
    assert_eq!(head.body, Body::Sized(0));
    for other in [
        &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"NICK somebody\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"GET /\r\n",
        b"\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        &[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f],
        &[0x80, 0x2e, 1, 3, 1],
    ] {
        assert_eq!(look(other, 1), Start::Unknown, "{other:?}");
    }
    assert_eq!(look(b"GET / HTTP/1.1\nHost: a.test\n\n", 1), Start::Broken);
}

proptest! {
    #[test]
    fn any_bytes_are_looked_at(
        bytes in proptest::collection::vec(any::<u8>(), 0..300), piece in 1usize..50,
    ) {
        look(&bytes, piece);
        look(&[&[HANDSHAKE, VERSION, 1], &bytes[..]].concat(), piece);
        look(&[b"GET / HTTP/1.1\r\n", &bytes[..]].concat(), piece);
    }

    #[test]
    fn any_damage_to_a_hello_is_looked_at(at in 0usize..200, value: u8, piece in 1usize..300) {
        let mut hello = hello_with(&[usual(), vec![(0, server_names(&["a.test"]))]].concat());
        if let Some(byte) = hello.get_mut(at) {
            *byte = value;
        }
        look(&hello, piece);
    }
}

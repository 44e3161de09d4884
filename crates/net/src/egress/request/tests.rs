use proptest::prelude::*;

use super::*;

fn head(text: &str) -> Result<Head, Broken> {
    parse(text.as_bytes()).map(|head| head.unwrap())
}

fn host(text: &str) -> Result<Option<String>, Broken> {
    head(text).map(|head| head.host)
}

#[test]
fn a_request_says_its_host_and_how_long_it_is() {
    let text = "POST /x HTTP/1.1\r\nHost: Api.Test:8080\r\nContent-Length: 12\r\n\r\nhello";
    let head = head(text).unwrap();
    assert_eq!(head.host.as_deref(), Some("api.test"));
    assert_eq!(head.body, Body::Sized(12));
    assert_eq!(&text[head.size..], "hello");
    assert_eq!(host("GET / HTTP/1.0\r\n\r\n"), Ok(None));
    assert_eq!(
        host("GET http://a.test/x HTTP/1.1\r\nhost: A.test\r\n\r\n"),
        Ok(Some("a.test".into()))
    );
    assert!(parse(b"GET / HTTP/1.1\r\nHost: a").unwrap().is_none());
}

#[test]
fn what_two_servers_could_read_in_two_ways_is_broken() {
    for fields in [
        "Host: a.test\r\nHost: b.test\r\n",
        "Host: a.test\r\nHOST: a.test\r\n",
        "Host: a.test, b.test\r\n",
        "Host: b.test@a.test\r\n",
        "Host: a.test/b\r\n",
        "Host: a.test:80:90\r\n",
        "Host: [::1]\r\n",
        "Host:\r\n",
        "Host : a.test\r\n",
        "Host: a.test\r\n X: y\r\n",
        "Host: a.test\nX: y\r\n",
        "X: y\nHost: a.test\r\n",
        "Host: a.test\r\nContent-Length: 1\r\nContent-Length: 1\r\n",
        "Host: a.test\r\nContent-Length: +1\r\n",
        "Host: a.test\r\nContent-Length: 1, 1\r\n",
        "Host: a.test\r\nContent-Length: 99999999999999999999\r\n",
        "Host: a.test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "Host: a.test\r\nTransfer-Encoding: gzip, chunked\r\n",
        "Host: a.test\r\nTransfer-Encoding: xchunked\r\n",
    ] {
        assert_eq!(host(&format!("GET / HTTP/1.1\r\n{fields}\r\n")), Err(Broken), "{fields:?}");
    }
    for line in [
        "CONNECT a.test:443 HTTP/1.1",
        "GET http://b.test/ HTTP/1.1",
        "GET http://b.test@a.test/ HTTP/1.1",
        "GET ftp://a.test/ HTTP/1.1",
        "GET a.test HTTP/1.1",
        "GET / HTTP/2.0",
    ] {
        assert_eq!(host(&format!("{line}\r\nHost: a.test\r\n\r\n")), Err(Broken), "{line}");
    }
    let old = "POST / HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(host(old), Err(Broken));
}

/// Where a chunked body ends, given in pieces of this size.
fn end(bytes: &[u8], piece: usize) -> Result<Option<usize>, Broken> {
    let mut chunks = Chunks::default();
    let mut at = 0;
    for part in bytes.chunks(piece) {
        let (size, done) = chunks.advance(part)?;
        at += size;
        if done {
            return Ok(Some(at));
        }
        assert_eq!(size, part.len());
    }
    Ok(None)
}

#[test]
fn a_chunked_body_ends_where_it_says() {
    let plain = b"5\r\nhello\r\n0\r\n\r\nGET";
    let rich = b"A;x=\"y\"\r\n0123456789\r\n00\r\nA: b\r\nC: d\r\n\r\nGET";
    for piece in [1, 2, 3, 100] {
        assert_eq!(end(plain, piece), Ok(Some(plain.len() - 3)));
        assert_eq!(end(rich, piece), Ok(Some(rich.len() - 3)));
    }
    for broken in [
        &b"\r\n"[..],
        b"x\r\n",
        b"5\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"5\r\nhello0\r\n",
        b"5;a\n0\r\n\r\n",
        b"0\r\nA: b\n\r\n",
        b"10000000000000000\r\n",
        b"+5\r\nhello\r\n",
    ] {
        assert_eq!(end(broken, 1), Err(Broken), "{broken:?}");
    }
    assert_eq!(end(&[b"5;", &[b'x'; 300][..]].concat(), 7), Err(Broken));
    assert_eq!(end(&[b"0\r\n", &[b'x'; 20_000][..]].concat(), 7), Err(Broken));
}

proptest! {
    #[test]
    fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200), piece in 1usize..20) {
        let _ = parse(&bytes);
        let _ = parse(&[b"GET / HTTP/1.1\r\n", &bytes[..]].concat());
        let _ = end(&bytes, piece);
    }

    #[test]
    fn a_body_of_any_chunks_ends_where_it_ends(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
        piece in 1usize..30,
    ) {
        let mut bytes = Vec::new();
        for chunk in &chunks {
            bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
        prop_assert_eq!(end(&bytes, piece), Ok(Some(bytes.len())));
        bytes.extend(b"GET / HTTP/1.1\r\n");
        prop_assert_eq!(end(&bytes, piece), Ok(Some(bytes.len() - 16)));
    }
}

//! What is on the wire below the messages, to the byte. Nothing here ever changes within a version.

use proto::{
    frame::{DATA_CHUNK, Decoder, FRAME_HEADER, FRAME_MAX, Frame, FrameError, FrameKind, encode},
    preamble::{
        HAIL, Hail, PREAMBLE_LEN, Preamble, Role, SCAN_MAX, Scanner, VERSION, prove, verify,
    },
};

/// Every kind of frame with its number; a kind that is added does not compile until it is here.
const KINDS: [(FrameKind, u8); 5] = [
    (FrameKind::Json, 1),
    (FrameKind::Stdin, 2),
    (FrameKind::Stdout, 3),
    (FrameKind::Stderr, 4),
    (FrameKind::Data, 5),
];

fn number(kind: FrameKind) -> u8 {
    match kind {
        FrameKind::Json => 1,
        FrameKind::Stdin => 2,
        FrameKind::Stdout => 3,
        FrameKind::Stderr => 4,
        FrameKind::Data => 5,
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_numbers_are_the_documented_ones() {
    assert_eq!((VERSION, FRAME_HEADER, FRAME_MAX, DATA_CHUNK), (1, 5, 1 << 20, 64 << 10));
    assert_eq!((PREAMBLE_LEN, SCAN_MAX, HAIL), (54, 4 << 20, [0xff; 16]));
}

#[test]
fn every_kind_of_frame_has_its_bytes() {
    for (kind, byte) in KINDS {
        assert_eq!(number(kind), byte);
        let mut wire = Vec::new();
        encode(kind, b"ab", &mut wire).unwrap();
        assert_eq!(wire, [0, 0, 0, 3, byte, b'a', b'b']);
        let mut empty = Vec::new();
        Frame::new(kind, []).encode(&mut empty).unwrap();
        assert_eq!(empty, [0, 0, 0, 1, byte]);
        let mut decoder = Decoder::new();
        decoder.push(&[wire, empty].concat());
        assert_eq!(decoder.next(), Ok(Some(Frame::new(kind, *b"ab"))));
        assert_eq!(decoder.next(), Ok(Some(Frame::new(kind, []))));
        assert_eq!(decoder.next(), Ok(None));
    }
    for byte in (0..=u8::MAX).filter(|byte| KINDS.iter().all(|(_, known)| known != byte)) {
        assert_eq!(FrameKind::try_from(byte), Err(FrameError::UnknownKind(byte)));
    }
}

#[test]
fn a_request_on_its_stream_has_these_bytes() {
    let mut wire = Vec::new();
    let json = serde_json::to_vec(&proto::message::Request::Ping).unwrap();
    encode(FrameKind::Json, &json, &mut wire).unwrap();
    assert_eq!(wire, *b"\0\0\0\x0e\x01{\"op\":\"ping\"}");
}

#[test]
fn a_preamble_has_these_bytes() {
    let nonce = std::array::from_fn(|at| u8::try_from(at).unwrap());
    let preamble = Preamble { version: 1, nonce };
    let expected = concat!(
        "b4a7719e0cd35f82e916ca3d68f02b95",
        "0001",
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        "a1ad370b",
    );
    assert_eq!(hexadecimal(&preamble.encode()), expected);
    // A newer version is taken in as well: which one is spoken is decided later.
    let newer = Preamble { version: 0x0203, nonce };
    let mut scanner = Scanner::new();
    assert_eq!(scanner.push(&newer.encode()), Ok(Some(newer)));
    assert_eq!(hexadecimal(&newer.encode()[16..18]), "0203");
}

#[test]
fn a_hail_is_heard_in_the_middle_of_anything() {
    let mut hail = Hail::default();
    assert!(!hail.is_heard(&HAIL[1..]));
    assert!(!hail.is_heard(&[0]));
    assert!(hail.is_heard(&[&[7], &HAIL[..]].concat()));
}

#[test]
fn a_proof_has_these_bytes() {
    let nonce = [7; 32];
    let proofs = [
        (Role::Host, "49e51acde05c64e15cd4e3d7cc76a9cdc7fd8bfcd7f2a2ad426a2aff946eefce"),
        (Role::Guest, "1fd20709449bd2db5a8318f6b9a94b837255d205def314ed46b7ef8e37ef608c"),
    ];
    for (role, expected) in proofs {
        let proof = prove(b"secret", role, &nonce);
        assert_eq!(proof, expected);
        assert!(verify(b"secret", role, &nonce, &proof));
    }
}

//! Reading questions and writing answers.

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{RData, Record},
};

/// The largest answer over UDP, which gets through everywhere without being fragmented.
const UDP_MAX: u16 = 1232;
/// What every client can take.
const UDP_MIN: u16 = 512;
/// The size of a message's header.
const HEADER_SIZE: usize = 12;
/// The bit in its third byte that says that it is an answer.
const IS_ANSWER: u8 = 0x80;

/// How a question came, and so how large its answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// What can be made of a message.
#[derive(Debug)]
pub(super) enum Read {
    /// A question to be answered.
    Question(Question),
    /// It has this answer whoever asks.
    Answer(Vec<u8>),
    /// Whatever it is, answering would only help whoever forged it.
    Nothing,
}

/// A question and what its answer has to repeat.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) query: Query,
    id: u16,
    recursion_desired: bool,
    /// The largest answer that the client takes over UDP, if it says so.
    payload: Option<u16>,
}

/// What is answered.
#[derive(Debug, Clone, Default)]
pub(super) struct Reply {
    pub(super) code: ResponseCode,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    /// Whether we are who knows.
    pub(super) authoritative: bool,
}

impl Reply {
    pub(super) fn code(code: ResponseCode) -> Self {
        Self { code, ..Self::default() }
    }

    /// Our own records for a question.
    pub(super) fn own(question: &Question, data: Vec<RData>, ttl: u32) -> Self {
        let name = question.query.name();
        let record = |data| Record::from_rdata(name.clone(), ttl, data);
        let answers = data.into_iter().map(record).collect();
        Self { answers, authoritative: true, ..Self::default() }
    }
}

/// Reads what a client sent.
pub(super) fn read(bytes: &[u8]) -> Read {
    if bytes.len() < HEADER_SIZE || bytes[2] & IS_ANSWER != 0 {
        return Read::Nothing;
    }
    let id = u16::from_be_bytes([bytes[0], bytes[1]]);
    let error = |code| {
        let message = Message::error_msg(id, OpCode::Query, code);
        message.to_vec().map_or(Read::Nothing, Read::Answer)
    };
    let Ok(mut message) = Message::from_vec(bytes) else { return error(ResponseCode::FormErr) };
    if message.metadata.op_code != OpCode::Query {
        return error(ResponseCode::NotImp);
    }
    let (Some(mut query), true) = (message.queries.pop(), message.queries.is_empty()) else {
        return error(ResponseCode::FormErr);
    };
    query.name.set_fqdn(true);
    Read::Question(Question {
        query,
        id,
        recursion_desired: message.metadata.recursion_desired,
        payload: message.edns.as_ref().map(Edns::max_payload),
    })
}

/// Writes the answer. What is too large for the client is left out and said to be: it asks again
/// over TCP.
pub(super) fn write(question: &Question, reply: Reply, transport: Transport) -> Option<Vec<u8>> {
    let mut message = Message::new(question.id, MessageType::Response, OpCode::Query);
    message.metadata.recursion_desired = question.recursion_desired;
    message.metadata.recursion_available = true;
    message.metadata.authoritative = reply.authoritative;
    message.metadata.response_code = reply.code;
    message.queries.push(question.query.clone());
    message.answers = reply.answers;
    message.authorities = reply.authorities;
    if question.payload.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_MAX);
        message.edns = Some(edns);
    }
    let limit = match transport {
        Transport::Tcp => usize::from(u16::MAX),
        Transport::Udp => question.payload.unwrap_or(UDP_MIN).clamp(UDP_MIN, UDP_MAX).into(),
    };
    if let Some(whole) = message.to_vec().ok().filter(|bytes| bytes.len() <= limit) {
        return Some(whole);
    }
    message.answers.clear();
    message.authorities.clear();
    message.metadata.truncation = true;
    message.to_vec().ok().filter(|bytes| bytes.len() <= limit)
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{Name, RecordType, rdata::TXT};
    use proptest::prelude::*;

    use super::*;

    fn question(payload: Option<u16>) -> Message {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        let name = Name::from_ascii("example.com.").unwrap();
        message.queries.push(Query::query(name, RecordType::TXT));
        if let Some(payload) = payload {
            message.edns = Some(Edns::new());
            message.edns.as_mut().unwrap().set_max_payload(payload);
        }
        message
    }

    fn answer(payload: Option<u16>, size: usize, transport: Transport) -> (Vec<u8>, Message) {
        let Read::Question(question) = read(&question(payload).to_vec().unwrap()) else { panic!() };
        let texts = vec!["x".repeat(200); size / 200];
        let reply = Reply::own(&question, vec![RData::TXT(TXT::new(texts))], 5);
        let bytes = write(&question, reply, transport).unwrap();
        let message = Message::from_vec(&bytes).unwrap();
        (bytes, message)
    }

    #[test]
    fn an_answer_is_as_large_as_the_client_takes() {
        for (payload, size, transport, truncated) in [
            (None, 400, Transport::Udp, false),
            (None, 600, Transport::Udp, true),
            (Some(1232), 1000, Transport::Udp, false),
            (Some(700), 1000, Transport::Udp, true),
            (Some(65535), 4000, Transport::Udp, true),
            (Some(0), 400, Transport::Udp, false),
            (None, 40_000, Transport::Tcp, false),
            (None, 70_000, Transport::Tcp, true),
        ] {
            let (bytes, message) = answer(payload, size, transport);
            assert_eq!(message.metadata.truncation, truncated, "{payload:?} {size}");
            assert_eq!(message.answers.is_empty(), truncated);
            assert_eq!(message.edns.is_some(), payload.is_some());
            assert!(transport == Transport::Tcp || bytes.len() <= 1232);
            assert_eq!(message.metadata.id, 7);
        }
    }

    #[test]
    fn what_is_no_question_is_not_answered_or_refused() {
        let mut message = question(None);
        message.metadata.message_type = MessageType::Response;
        assert!(matches!(read(&message.to_vec().unwrap()), Read::Nothing));
        assert!(matches!(read(&[0; 11]), Read::Nothing));
        let mut none = question(None);
        none.queries.clear();
        let mut two = question(None);
        two.queries.push(two.queries[0].clone());
        let mut update = question(None);
        update.metadata.op_code = OpCode::Update;
        for message in [none, two, update] {
            assert!(matches!(read(&message.to_vec().unwrap()), Read::Answer(_)));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Read::Question(question) = read(&bytes) {
                write(&question, Reply::default(), Transport::Udp);
            }
        }

        #[test]
        fn any_damage_is_read(at in 0usize..60, value: u8, cut in 0usize..60) {
            let mut bytes = question(Some(1232)).to_vec().unwrap();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            bytes.truncate(bytes.len().saturating_sub(cut));
            if let Read::Question(question) = read(&bytes) {
                let written = write(&question, Reply::default(), Transport::Udp);
                prop_assert!(written.is_none_or(|bytes| bytes.len() <= 1232));
            }
        }
    }
}

//! From a message to its answer.

use std::{net::Ipv4Addr, sync::Arc};

use hickory_proto::{
    op::ResponseCode,
    rr::{RData, Record, RecordType},
};

use super::{
    forward::{Outcome, addresses},
    message::{self, Question, Read, Reply, Transport},
    names::{self, Route},
};
use crate::{
    address::Place,
    egress::{
        Reason, Target, Verdict,
        guard::{Guard, Turn},
    },
    policy::{Mode, Reach},
};

/// How long our own answers count, in seconds: sandboxes come and go.
const OWN_TTL: u32 = 5;

/// Answers questions of sandboxes.
#[derive(Debug)]
pub(crate) struct Responder {
    guard: Arc<Guard>,
}

/// What becomes of a message.
#[derive(Debug)]
pub(super) enum Step {
    /// This is to be sent, if anything is.
    Answer(Option<Vec<u8>>),
    /// Others have to be asked.
    Ask(Box<Asking>),
}

/// A question that others have to be asked.
#[derive(Debug)]
pub(super) struct Asking {
    question: Question,
    transport: Transport,
    place: Place,
    reach: Arc<Reach>,
    _turn: Turn,
}

impl Responder {
    pub(crate) fn new(guard: Arc<Guard>) -> Self {
        Self { guard }
    }

    /// Whose a source address is, if anybody's.
    pub(super) fn locate(&self, source: Ipv4Addr) -> Option<Place> {
        self.guard.locate(source)
    }

    /// Does what can be done at once.
    pub(super) fn begin(&self, source: Ipv4Addr, bytes: &[u8], transport: Transport) -> Step {
        let question = match message::read(bytes) {
            Read::Question(question) => question,
            Read::Answer(answer) => return Step::Answer(Some(answer)),
            Read::Nothing => return Step::Answer(None),
        };
        let say = |reply| Step::Answer(message::write(&question, reply, transport));
        let guard = &self.guard;
        let known =
            guard.locate(source).and_then(|place| Some((place, guard.directory.policy(place)?)));
        let Some((place, policy)) = known else { return say(Reply::code(ResponseCode::Refused)) };
        let reach = Arc::clone(&policy.borrow());
        let policy = &reach.holds;
        match names::route(&question.query, place, policy, &guard.directory) {
            Route::Answer(data) => say(Reply::own(&question, data, OWN_TTL)),
            Route::Fail(code) => say(Reply::code(code)),
            Route::Empty => say(Reply::default()),
            Route::Denied => {
                let reason = match policy.mode {
                    Mode::Deny => Reason::Closed,
                    Mode::Open | Mode::Allowlist => Reason::NameNotAllowed,
                };
                let verdict = Verdict::Denied(reason).blame(&reach, |asked| {
                    let route = names::route(&question.query, place, asked, &guard.directory);
                    route != Route::Denied
                });
                self.note(place, &question, None, &verdict);
                say(Reply::code(ResponseCode::Refused))
            }
            Route::Forward => match guard.questions.take(place) {
                None => {
                    self.note(place, &question, None, &Verdict::Denied(Reason::Limit));
                    say(Reply::code(ResponseCode::ServFail))
                }
                Some(turn) => {
                    Step::Ask(Box::new(Asking { question, transport, place, reach, _turn: turn }))
                }
            },
        }
    }

    /// Asks others.
    pub(super) async fn finish(&self, asking: Asking) -> Option<Vec<u8>> {
        let query = &asking.question.query;
        let reply = match self.guard.forwarder.ask(query.name.clone(), query.query_type).await {
            Outcome::Records(records) => self.judge(&asking, records),
            Outcome::Nothing { code, soa } => Reply { code, authorities: soa, ..Reply::default() },
            Outcome::Failed => Reply::code(ResponseCode::ServFail),
        };
        message::write(&asking.question, reply, asking.transport)
    }

    /// Takes out what may not be reached, and remembers what may.
    fn judge(&self, asking: &Asking, mut records: Vec<Record>) -> Reply {
        let Asking { question, place, reach, .. } = asking;
        let mut blocked = None;
        records.retain(|record| match record.data {
            RData::A(address) => {
                let allowed = self.guard.may_lead_to(&reach.holds, address.0);
                if !allowed {
                    blocked.get_or_insert(address.0);
                }
                allowed
            }
            RData::AAAA(_) => false,
            _ => true,
        });
        let bound: Vec<_> = addresses(&records).collect();
        if let Some(address) = blocked {
            self.note(*place, question, Some(address), &Verdict::Denied(Reason::Rebinding));
        }
        if blocked.is_some() && bound.is_empty() {
            return Reply::default();
        }
        if question.query.query_type == RecordType::A {
            let host = names::host_name(&question.query.name);
            self.guard.bindings.bind(*place, &host, &bound);
        }
        if !records.is_empty() {
            self.note(*place, question, None, &Verdict::Allowed(Reason::Name));
        }
        Reply { answers: records, ..Reply::default() }
    }

    fn note(
        &self,
        place: Place,
        question: &Question,
        address: Option<Ipv4Addr>,
        verdict: &Verdict,
    ) {
        let host = names::host_name(&question.query.name);
        self.guard.log.record(place, Target { address, ..Target::name(&host, verdict) });
    }
}

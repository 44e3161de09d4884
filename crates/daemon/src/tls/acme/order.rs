//! One order, from its names to a certificate.

use std::{path::Path, time::Duration};

use instant_acme::{
    Account, AuthorizationStatus, ChallengeHandle, ChallengeType, Error, Identifier, NewOrder,
    Order, OrderStatus, Problem, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::{
    answers::{Answer, Answers},
    hook::{HOOK_TIME, HookError, Record},
};
use crate::{config::Challenge, tls::TlsError};

/// How long the authority may take to look, and then to make the certificate.
const PATIENCE: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.5)
    .timeout(Duration::from_secs(120));

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(in crate::tls) enum AcmeError {
    /// The authority did not answer, or said no.
    #[error(transparent)]
    Api(#[from] Error),
    /// The authority looked and did not find what it should.
    #[error("{name} was not proven: {why}")]
    Refused { name: String, why: String },
    /// The authority wants something else.
    #[error("the authority does not take {how} for {name}")]
    NotTaken { name: String, how: &'static str },
    #[error("the record in DNS was not made")]
    Hook(#[from] HookError),
    #[error("{0}")]
    Other(&'static str),
    /// What was made cannot be used or kept.
    #[error(transparent)]
    Certificate(#[from] TlsError),
}

/// A certificate with its chain, in PEM, and its key, in DER.
pub(super) struct Issued {
    pub(super) chain: String,
    pub(super) key: Vec<u8>,
}

impl AcmeError {
    fn problem(&self) -> Option<&str> {
        match self {
            Self::Api(Error::Api(problem)) => problem.r#type.as_deref(),
            _ => None,
        }
    }

    /// Whether the authority was asked too often.
    pub(super) fn is_limit(&self) -> bool {
        self.problem().is_some_and(|kind| kind.ends_with(":rateLimited"))
    }

    /// Whether the authority does not know the account any more.
    pub(super) fn is_account(&self) -> bool {
        self.problem().is_some_and(|kind| kind.ends_with(":accountDoesNotExist"))
    }
}

/// Proves the names and has a certificate made for them, with a key of its own.
pub(super) async fn obtain(
    account: &Account,
    names: &[String],
    challenge: &Challenge,
    answers: &Answers,
) -> Result<Issued, AcmeError> {
    let identifiers: Vec<_> = names.iter().cloned().map(Identifier::Dns).collect();
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
    let mut placed = Placed::default();
    let proven = prove(&mut order, challenge, answers, &mut placed).await;
    placed.take_away().await;
    proven?;
    let made = |error| AcmeError::Certificate(TlsError::Make(error));
    let key = KeyPair::generate().map_err(made)?;
    let mut params = CertificateParams::new(names.to_vec()).map_err(made)?;
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(made)?;
    order.finalize_csr(request.der()).await?;
    let chain = order.poll_certificate(&PATIENCE).await?;
    Ok(Issued { chain, key: key.serialize_der() })
}

/// What the authority is to find, for as long as it looks.
#[derive(Default)]
struct Placed<'a> {
    answers: Vec<Answer>,
    records: Vec<Record<'a>>,
}

impl Placed<'_> {
    async fn take_away(self) {
        drop(self.answers);
        for record in self.records {
            if let Err(error) = record.cleanup(HOOK_TIME).await {
                tracing::warn!("a record in DNS stays: {}", base::chain(&error));
            }
        }
    }
}

async fn prove<'a>(
    order: &mut Order,
    challenge: &'a Challenge,
    answers: &Answers,
    placed: &mut Placed<'a>,
) -> Result<(), AcmeError> {
    let (kind, how) = match challenge {
        Challenge::Http01 => (ChallengeType::Http01, "http-01"),
        Challenge::TlsAlpn01 => (ChallengeType::TlsAlpn01, "tls-alpn-01"),
        Challenge::Dns01 { .. } => (ChallengeType::Dns01, "dns-01"),
    };
    let mut all = order.authorizations();
    while let Some(authorization) = all.next().await {
        let mut authorization = authorization?;
        let name = authorization.identifier().to_string();
        // Only what was proven lately needs nothing; what is of no use shows in the order.
        if authorization.status != AuthorizationStatus::Pending {
            continue;
        }
        let one = authorization.challenge(kind.clone());
        let mut one = one.ok_or_else(|| AcmeError::NotTaken { name: name.clone(), how })?;
        place(&one, &name, challenge, answers, placed).await?;
        one.set_ready().await?;
    }
    match order.poll_ready(&PATIENCE).await {
        Ok(OrderStatus::Ready) => Ok(()),
        Ok(_) => Err(refusal(order).await),
        Err(error @ Error::Api(_)) => match refusal(order).await {
            refused @ AcmeError::Refused { .. } => Err(refused),
            _ => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// Makes what the authority looks for.
async fn place<'a>(
    one: &ChallengeHandle<'_>,
    name: &str,
    challenge: &'a Challenge,
    answers: &Answers,
    placed: &mut Placed<'a>,
) -> Result<(), AcmeError> {
    let answer = one.key_authorization();
    match challenge {
        Challenge::Http01 => placed.answers.push(answers.over_http(&one.token, answer.as_str())),
        Challenge::TlsAlpn01 => {
            placed.answers.push(answers.over_tls(name, answer.digest().as_ref())?);
        }
        Challenge::Dns01 { hook } => {
            let record = record(hook, name, answer.dns_value());
            // Also what was made only in part is taken away.
            placed.records.push(record);
            if let Some(record) = placed.records.last() {
                record.present(HOOK_TIME).await?;
            }
        }
    }
    Ok(())
}

fn record<'a>(hook: &'a Path, name: &str, value: String) -> Record<'a> {
    let host = name.strip_prefix("*.").unwrap_or(name);
    Record { hook, name: format!("_acme-challenge.{host}"), value }
}

/// Why an order came to nothing, as far as the authority says.
async fn refusal(order: &mut Order) -> AcmeError {
    let mut all = order.authorizations();
    while let Some(Ok(mut authorization)) = all.next().await {
        let name = authorization.identifier().to_string();
        if authorization.refresh().await.is_err() {
            continue;
        }
        let why = authorization.challenges.iter().find_map(|one| one.error.as_ref()).map(told);
        if let Some(why) = why {
            return AcmeError::Refused { name, why };
        }
    }
    let why = "the order came to nothing, and the authority does not say why".to_owned();
    AcmeError::Refused { name: "a name".to_owned(), why }
}

fn told(problem: &Problem) -> String {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    let kind = kind.rsplit(':').next().unwrap_or_default();
    match &problem.detail {
        Some(detail) => format!("{detail} ({kind})"),
        None => kind.to_owned(),
    }
}

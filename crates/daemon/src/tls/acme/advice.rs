//! What the authority says about when a certificate is to be renewed (RFC 9773): earlier than usual if it
//! takes certificates back, say. What it does not say, or not in time, changes nothing.

use std::{collections::HashMap, sync::Arc};

use base::clock;
use instant_acme::{Account, CertificateIdentifier, Error};
use rustls::pki_types::Der;

use super::Acme;
use crate::tls::x509::Facts;

const HOUR: i64 = 3600;
/// When it is asked again, seconds: as it says, but in these bounds.
const ASK_SOON: i64 = HOUR;
const ASK_LATE: i64 = 24 * HOUR;
/// When it is asked again if it did not answer, seconds.
const ASK_AFTER_FAILURE: i64 = 6 * HOUR;

/// What was said about the certificates, by the first of their names.
#[derive(Debug, Default)]
pub(super) struct Advice(HashMap<String, Said>);

#[derive(Debug)]
struct Said {
    serial: Vec<u8>,
    /// When it is to be renewed, Unix seconds.
    renew_at: Option<i64>,
    /// When it is to be asked again, Unix seconds.
    again_at: i64,
}

impl Advice {
    /// When that certificate is to be renewed, if the authority has said so.
    pub(super) fn renew_at(&self, id: &str, facts: &Facts) -> Option<i64> {
        self.0.get(id).filter(|said| said.serial == facts.serial)?.renew_at
    }

    /// Whether it is time to ask about a certificate.
    fn is_due(&self, id: &str, facts: &Facts, now: i64) -> bool {
        let known = self.0.get(id).filter(|said| said.serial == facts.serial);
        facts.maker.is_some() && known.is_none_or(|said| said.again_at <= now)
    }
}

impl Acme {
    /// Certificates that it is time to ask about.
    pub(super) fn unadvised(&self, now: i64) -> Vec<(String, Facts)> {
        let table = self.table();
        let all = table.kept.iter().map(|(id, kept)| (id, &kept.facts));
        let due = all.filter(|(id, facts)| table.advice.is_due(id, facts, now));
        due.map(|(id, facts)| (id.clone(), facts.clone())).collect()
    }

    /// Asks about certificates. Those that nobody knows any more are forgotten.
    pub(super) async fn advise(self: Arc<Self>, certificates: Vec<(String, Facts)>) {
        let account = self.account().await;
        for (id, facts) in certificates {
            let now = clock::unix_seconds();
            let (renew_at, wait) = match &account {
                Ok(account) => ask(account, &facts).await,
                Err(_) => (None, ASK_AFTER_FAILURE),
            };
            let said = Said { serial: facts.serial, renew_at, again_at: now + wait };
            let mut table = self.table();
            let known: Vec<String> = table.kept.keys().cloned().collect();
            table.advice.0.retain(|id, _| known.contains(id));
            table.advice.0.insert(id, said);
        }
    }
}

/// When a certificate is to be renewed, Unix seconds, and when that is to be asked again, in seconds.
async fn ask(account: &Account, facts: &Facts) -> (Option<i64>, i64) {
    let maker = facts.maker.as_deref().unwrap_or_default();
    let id = CertificateIdentifier::new(Der::from_slice(maker), Der::from_slice(&facts.serial));
    match account.renewal_info(&id).await {
        Ok((info, wait)) => {
            let window = info.suggested_window;
            let (start, end) = (window.start.unix_timestamp(), window.end.unix_timestamp());
            let dice = i64::from(facts.serial.last().copied().unwrap_or_default());
            let renew_at = start + end.saturating_sub(start).max(0) / 255 * dice;
            let wait = i64::try_from(wait.as_secs()).unwrap_or(ASK_LATE);
            (Some(renew_at), wait.clamp(ASK_SOON, ASK_LATE))
        }
        Err(Error::Unsupported(_)) => (None, ASK_LATE),
        Err(error) => {
            tracing::debug!("nothing is said about when to renew: {}", base::chain(&error));
            (None, ASK_AFTER_FAILURE)
        }
    }
}

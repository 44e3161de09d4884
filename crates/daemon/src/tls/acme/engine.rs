//! Who takes care that there are certificates: orders what is missing or near its end, one for each name
//! at a time, and lets be for a while what did not work.

use std::{sync::Arc, time::Duration};

use base::clock;
use instant_acme::{Account, NewAccount};
use tokio::{sync::watch, task::JoinSet, time::timeout};

use super::{Acme, AcmeError, Kept, Table, order};
use crate::{connections::stopped, tls::TlsError};

/// Most orders at the same time.
const MOST_ORDERS: usize = 4;
/// How long it is slept at most, so that a clock that was set is noticed, seconds.
const LONGEST_SLEEP: i64 = 3600;

/// A certificate that is to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    id: String,
    names: Vec<String>,
    /// Because somebody came, and not because the configuration says so.
    on_demand: bool,
}

impl Acme {
    /// Takes care until `stop` says so. `published` says whether an alias is.
    pub(crate) async fn run(
        self: Arc<Self>,
        published: impl Fn(&str) -> bool + Send + Sync + 'static,
        mut stop: watch::Receiver<bool>,
    ) {
        let _ = self.published.set(Box::new(published));
        let (mut orders, mut asking) = (JoinSet::new(), JoinSet::new());
        loop {
            let now = clock::unix_seconds();
            let free = MOST_ORDERS.saturating_sub(orders.len());
            let (due, next) = self.due(now, free);
            if due.iter().any(|target| target.on_demand) {
                self.write_ledger().await;
            }
            let unadvised = self.unadvised(now);
            if !unadvised.is_empty() && asking.is_empty() {
                asking.spawn(Arc::clone(&self).advise(unadvised));
            }
            for target in due {
                orders.spawn(Arc::clone(&self).attempt(target));
            }
            let sleep = next.map_or(LONGEST_SLEEP, |at| (at - now).clamp(0, LONGEST_SLEEP));
            let sleep = Duration::from_secs(sleep.unsigned_abs());
            tokio::select! {
                () = stopped(&mut stop) => break,
                Some(_) = orders.join_next() => {}
                Some(_) = asking.join_next() => {}
                () = self.asked.notified() => {}
                _ = timeout(sleep, std::future::pending::<()>()), if free > 0 => {}
            }
        }
        orders.shutdown().await;
        asking.shutdown().await;
    }

    /// What is to be ordered now, at most so many, and when there is more. It counts as under way.
    fn due(&self, now: i64, most: usize) -> (Vec<Target>, Option<i64>) {
        let targets = self.targets();
        let mut table = self.table();
        let (mut due, mut next) = (Vec::new(), None::<i64>);
        for target in targets {
            let id = &target.id;
            if table.busy.contains(id) {
                continue;
            }
            let kept = table.kept.get(id).filter(|kept| kept.covers(&target.names));
            let advised = kept.and_then(|kept| table.advice.renew_at(id, &kept.facts));
            let (missing, usual) = (kept.is_none(), kept.map_or(0, Kept::renew_at));
            let renew_at = advised.map_or(usual, |advised| advised.min(usual));
            let at = renew_at.max(table.ledger.allowed_at(id));
            if at > now {
                table.asked.remove(id);
                next = Some(next.map_or(at, |next| next.min(at)));
                continue;
            }
            if due.len() >= most {
                continue;
            }
            table.asked.remove(id);
            if target.on_demand && missing && !table.ledger.take_on_demand(now) {
                let why =
                    "there were as many new certificates this week as there may be".to_owned();
                table.ledger.went_wrong(id, why, true, now, 0);
                self.ended.send_replace(());
                continue;
            }
            table.busy.insert(id.clone());
            due.push(target);
        }
        (due, next)
    }

    /// All that there is to be a certificate for: what the configuration says, what somebody asks for,
    /// and what had one before. The certificates of what nobody wants any more go once they have ended.
    fn targets(&self) -> Vec<Target> {
        let of = |names: &Vec<String>| {
            let id = names.first()?.clone();
            Some(Target { id, names: names.clone(), on_demand: false })
        };
        let mut targets: Vec<Target> = self.config.wanted.iter().filter_map(of).collect();
        let mut table = self.table();
        let others = table.asked.iter().chain(table.kept.keys()).cloned();
        let mut others: Vec<String> =
            others.filter(|id| targets.iter().all(|target| target.id != *id)).collect();
        others.sort_unstable();
        others.dedup();
        let (wanted, gone): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|id| self.is_published(id));
        for id in gone {
            self.drop_ended(&mut table, &id);
        }
        let of = |id: String| Target { names: vec![id.clone()], id, on_demand: true };
        targets.extend(wanted.into_iter().map(of));
        targets
    }

    fn drop_ended(&self, table: &mut Table, id: &str) {
        table.asked.remove(id);
        let ended = |kept: &Kept| kept.facts.not_after < clock::unix_seconds();
        if table.kept.get(id).is_some_and(ended) {
            table.forget(id);
            self.keep.remove(id);
        }
    }

    /// Orders a certificate and shows it, or notes why there is none.
    async fn attempt(self: Arc<Self>, target: Target) {
        let _busy = Busy { acme: &self, id: &target.id };
        let names = target.names.join(", ");
        let outcome = self.order(&target).await;
        let now = clock::unix_seconds();
        match outcome {
            Ok(kept) => {
                tracing::info!("there is a new certificate for {names}");
                let mut table = self.table();
                table.ledger.went_well(&target.id);
                // Else it would be asked for again and again.
                if kept.renew_at() <= now {
                    let why = "the new certificate is near its end; is the clock right?".to_owned();
                    table.ledger.went_wrong(&target.id, why, false, now, 0);
                }
                table.keep(&target.id, kept);
            }
            Err(error) => {
                let why = base::chain(&error);
                self.forget_account(&error).await;
                let [dice] = base::random::bytes();
                let next_at = {
                    let mut table = self.table();
                    let limited = error.is_limit();
                    table.ledger.went_wrong(&target.id, why.clone(), limited, now, dice);
                    table.ledger.allowed_at(&target.id)
                };
                let again = next_at - now;
                tracing::warn!("no certificate for {names}, tried again in {again} s: {why}");
            }
        }
        self.write_ledger().await;
    }

    async fn order(&self, target: &Target) -> Result<Kept, AcmeError> {
        let account = self.account().await?;
        let (challenge, answers) = (&self.config.challenge, &self.answers);
        let issued = order::obtain(&account, &target.names, challenge, answers).await?;
        let kept = self.keep.write(&target.id, &issued.chain, &issued.key)?;
        match kept.covers(&target.names) {
            true => Ok(kept),
            false => Err(AcmeError::Other("the certificate lacks a name that it was asked for")),
        }
    }

    /// The account at the authority, which is made if there is none.
    pub(super) async fn account(&self) -> Result<Account, AcmeError> {
        let mut held = self.account.lock().await;
        if let Some(account) = &*held {
            return Ok(account.clone());
        }
        let builder = Account::builder_with_http(Box::new(self.https.clone()));
        let account = match self.keep.account() {
            Some(known) => builder.from_credentials(known).await?,
            None => {
                let contact = self.config.email.as_ref().map(|email| format!("mailto:{email}"));
                let contact: Vec<&str> = contact.as_deref().into_iter().collect();
                let wanted = NewAccount {
                    contact: &contact,
                    // The configuration is refused without it.
                    terms_of_service_agreed: true,
                    only_return_existing: false,
                };
                let directory = self.config.directory.clone();
                let (account, credentials) = builder.create(&wanted, directory, None).await?;
                self.keep.write_account(&credentials)?;
                tracing::info!("there is an account at {} now", self.config.directory);
                account
            }
        };
        *held = Some(account.clone());
        Ok(account)
    }

    /// After a failure the authority is asked anew what it can do, and for another account if it does
    /// not know this one.
    async fn forget_account(&self, error: &AcmeError) {
        let mut held = self.account.lock().await;
        *held = None;
        if error.is_account() {
            self.keep.forget_account();
        }
    }

    async fn write_ledger(&self) {
        let _one = self.writing.lock().await;
        let ledger = {
            let mut table = self.table();
            let ids = self.config.wanted.iter().filter_map(|names| names.first());
            let ids: Vec<&String> = ids.collect();
            table.ledger.keep_only(|id| ids.iter().any(|one| *one == id) || self.is_published(id));
            table.ledger.clone()
        };
        let written: Result<(), TlsError> = self.keep.write_ledger(&ledger);
        if let Err(error) = written {
            tracing::warn!("{}", base::chain(&error));
        }
    }
}

impl Kept {
    /// When there is to be another one, Unix seconds: with a third of its life left, and a little
    /// earlier, so that not all that were made together are asked for together.
    fn renew_at(&self) -> i64 {
        let facts = &self.facts;
        let dice = facts.serial.last().copied().unwrap_or_default();
        renew_at(facts.not_before, facts.not_after, dice)
    }

    fn covers(&self, names: &[String]) -> bool {
        names.iter().all(|name| self.facts.names.contains(name))
    }
}

fn renew_at(not_before: i64, not_after: i64, dice: u8) -> i64 {
    let third = not_after.saturating_sub(not_before) / 3;
    not_after - third - third / 10 * i64::from(dice) / 255
}

/// Something is being ordered; nobody waits for it any more when this goes.
struct Busy<'a> {
    acme: &'a Acme,
    id: &'a str,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.acme.table().busy.remove(self.id);
        self.acme.ended.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::renew_at;

    #[test]
    fn a_third_is_left() {
        const DAY: i64 = 86400;
        assert_eq!(renew_at(0, 90 * DAY, 0), 60 * DAY);
        assert_eq!(renew_at(0, 90 * DAY, 255), 57 * DAY);
    }

    proptest! {
        #[test]
        fn it_is_renewed_while_it_is_good(from in 0i64..1 << 40, life in 3i64..1 << 30, dice: u8) {
            let at = renew_at(from, from + life, dice);
            prop_assert!(from + life / 2 <= at && at < from + life);
        }
    }
}

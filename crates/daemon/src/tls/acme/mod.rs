//! Certificates of an authority that is asked by ACME.
//!
//! ```text
//! handshake ─► has one? ─► shown        engine: what is missing or near its end ─► order ─► kept
//!                 │ no                     ▲                                          │
//!                 └─► wanted? ─► asked ────┘        the authority looks ◄── answers ◄─┘
//! ```
//! Invariant: an order is made only for a name that the configuration says or that is published now,
//! whatever strangers ask for, and so many of the latter in a week.

mod advice;
mod answers;
mod engine;
mod hook;
mod http;
mod keep;
mod ledger;
mod order;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use base::clock;
use instant_acme::Account;
use rustls::{server::ClientHello, sign::CertifiedKey};
use tokio::sync::{Notify, watch};

use self::{
    advice::Advice,
    answers::Answers,
    http::Https,
    keep::{Keep, Kept},
    ledger::Ledger,
    order::AcmeError,
};
use super::{TlsError, state::State};
use crate::config::{AcmeConfig, Challenge};

/// What the authority calls its own protocol.
pub(crate) const ACME_TLS: &[u8] = b"acme-tls/1";

/// Says whether an alias is published now.
type Published = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// The certificates, and whoever takes care of them.
pub(crate) struct Acme {
    config: AcmeConfig,
    https: Https,
    keep: Keep,
    answers: Answers,
    table: Mutex<Table>,
    published: OnceLock<Published>,
    /// The account at the authority, once it was needed.
    account: tokio::sync::Mutex<Option<Account>>,
    /// Held by who writes the ledger.
    writing: tokio::sync::Mutex<()>,
    /// Tells the engine that somebody asks.
    asked: Notify,
    /// Tells who waits that an order has ended.
    ended: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Table {
    /// Certificates by the first of their names.
    kept: HashMap<String, Kept>,
    /// Those by each of their names.
    by_name: HashMap<String, String>,
    ledger: Ledger,
    advice: Advice,
    /// Names that somebody waits for.
    asked: BTreeSet<String>,
    /// What is being ordered.
    busy: BTreeSet<String>,
}

impl Table {
    fn shown(&self, name: &str) -> Option<&Kept> {
        let wildcard = || Some(format!("*.{}", name.split_once('.')?.1));
        let id = self.by_name.get(name).or_else(|| self.by_name.get(&wildcard()?))?;
        self.kept.get(id)
    }

    fn keep(&mut self, id: &str, kept: Kept) {
        self.by_name.retain(|_, of| of != id);
        let names = kept.facts.names.iter().cloned();
        self.by_name.extend(names.map(|name| (name, id.to_owned())));
        self.kept.insert(id.to_owned(), kept);
    }

    fn forget(&mut self, id: &str) {
        self.by_name.retain(|_, of| of != id);
        self.kept.remove(id);
    }
}

impl Acme {
    /// Takes up what is kept of the authority. Nobody is asked yet.
    pub(super) fn open(config: &AcmeConfig, data_dir: &Path) -> Result<Arc<Self>, TlsError> {
        let https = Https::new(config.ca.as_deref()).map_err(|source| {
            let path = config.ca.clone().unwrap_or_default();
            TlsError::File { path, source }
        })?;
        let keep = Keep::open(data_dir, &config.directory)?;
        let mut table = Table { ledger: keep.ledger(), ..Table::default() };
        for (first, kept) in keep.certificates()? {
            // An authority may put names in another order.
            let wanted = config.wanted.iter().find(|names| names.contains(&first));
            let id = wanted.and_then(|names| names.first()).unwrap_or(&first).clone();
            table.keep(&id, kept);
        }
        Ok(Arc::new(Self {
            config: config.clone(),
            https,
            keep,
            answers: Answers::default(),
            table: Mutex::new(table),
            published: OnceLock::new(),
            account: tokio::sync::Mutex::default(),
            writing: tokio::sync::Mutex::default(),
            asked: Notify::new(),
            ended: watch::Sender::new(()),
        }))
    }

    /// Whether connections in the authority's own protocol are answered.
    pub(super) fn is_asked_over_tls(&self) -> bool {
        self.config.challenge == Challenge::TlsAlpn01
    }

    /// What the authority is answered over plain HTTP.
    pub(crate) fn over_http(&self, path: &str) -> Option<String> {
        self.answers.http(path)
    }

    /// What is shown to a client.
    pub(super) fn resolve(&self, hello: &ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        if is_authority(hello) {
            return self.answers.tls(&name?);
        }
        // Whoever names nobody sees at least who is here.
        let name = name.or_else(|| self.config.wanted.first()?.first().cloned())?;
        self.table().shown(&name).map(|kept| Arc::clone(&kept.shown))
    }

    /// Returns when there is a certificate for the name, or when there will be none soon.
    pub(super) async fn ready(&self, name: &str) {
        let name = name.to_ascii_lowercase();
        let mut ended = self.ended.subscribe();
        loop {
            ended.mark_unchanged();
            if !self.ask(&name) || ended.changed().await.is_err() {
                return;
            }
        }
    }

    /// Asks for a certificate, if there is none and there is to be one. Whether it is worth waiting.
    fn ask(&self, name: &str) -> bool {
        let Some(id) = self.wanted_for(name) else { return false };
        let mut table = self.table();
        if table.shown(name).is_some() {
            return false;
        }
        if !table.busy.contains(&id) {
            if table.ledger.allowed_at(&id) > clock::unix_seconds() {
                return false;
            }
            table.asked.insert(id);
            self.asked.notify_one();
        }
        true
    }

    /// What certificate there is to be for a name.
    fn wanted_for(&self, name: &str) -> Option<String> {
        let covers = |one: &&str| {
            let wildcard = one.strip_prefix("*.");
            *one == name
                || wildcard.is_some_and(|of| name.split_once('.').is_some_and(|n| n.1 == of))
        };
        let wanted = self.config.wanted.iter();
        let mut found = wanted.filter(|names| names.iter().any(|one| covers(&one.as_str())));
        match found.next() {
            Some(names) => names.first().cloned(),
            None => self.is_published(name).then(|| name.to_owned()),
        }
    }

    /// Whether a name is the zone's own, or that of an alias that is published now.
    fn is_published(&self, name: &str) -> bool {
        let Some(rest) =
            self.config.on_demand.as_ref().and_then(|zone| name.strip_suffix(zone.as_str()))
        else {
            return false;
        };
        let alias = rest.strip_suffix('.').zip(self.published.get());
        rest.is_empty() || alias.is_some_and(|(alias, published)| published(alias))
    }

    /// What there is and what there should be.
    pub(super) fn states(&self) -> Vec<State> {
        let table = self.table();
        let wanted = self.config.wanted.iter().filter_map(|names| names.first());
        let others = table.kept.keys().filter(|id| self.is_published(id));
        let ids: BTreeSet<&String> = wanted.chain(others).chain(table.ledger.names()).collect();
        let of = |id: &String| {
            let kept = table.kept.get(id);
            let names = kept.map(|kept| kept.facts.names.clone());
            let names = names.or_else(|| self.config.wanted.iter().find(|n| n[0] == *id).cloned());
            let failed = table.ledger.failed(id);
            State {
                names: names.unwrap_or_else(|| vec![id.clone()]),
                not_after: kept.map(|kept| kept.facts.not_after),
                problem: failed.map(|failed| failed.why.clone()),
                next_try_at: failed.map(|failed| failed.next_at),
            }
        };
        ids.into_iter().map(of).collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether it is the authority that looks, and nobody who wants to be served.
pub(super) fn is_authority(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|all| all.eq([ACME_TLS]))
}

impl fmt::Debug for Acme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acme").field("directory", &self.config.directory).finish_non_exhaustive()
    }
}

//! Publishing as the daemon asks for it.

use std::sync::Arc;

use base::{clock, ids::PublicationId};

use super::{
    Alias, Guard, MOST_RANGES, Place, Publication, PublishRequest, USER_MAX, WantedGuard,
    WantedPlace,
};
use crate::{Error, Kind, Orchestrator, Result, Sandbox};

/// What every token begins with, so that people and scanners recognise one.
const TOKEN_PREFIX: &str = "bpt_";
/// How often an alias is made up before it is given up.
const ATTEMPTS: usize = 4;

/// The outcome of publishing.
#[derive(Debug)]
pub struct Published {
    /// What is published.
    pub publication: Arc<Publication>,
    /// Whether it was published already, in the same way.
    pub existing: bool,
    /// The token or password, which is not kept and cannot be had again.
    pub secret: Option<String>,
}

impl Orchestrator {
    /// Publishes a port of a sandbox. Wakes nothing.
    ///
    /// # Errors
    /// [`Kind::PublicationDiffers`] if the port is published in another way, [`Kind::AliasTaken`],
    /// [`Kind::HostPortTaken`], [`Kind::QuotaPublications`], [`Kind::InvalidName`] for an alias that
    /// is none, [`Kind::InvalidRequest`].
    pub async fn publish(&self, sandbox: &Sandbox, wanted: PublishRequest) -> Result<Published> {
        check(&wanted)?;
        let view = sandbox.view();
        let mut attempts = match wanted.place {
            WantedPlace::Alias(None) => ATTEMPTS,
            _ => 1,
        };
        loop {
            let (guard, secret) = guard(&wanted.guard);
            let publication = Publication {
                id: PublicationId::random(),
                sandbox: view.id.clone(),
                owner: view.owner.clone(),
                port: wanted.port,
                place: place(&wanted.place, view.name.as_str())?,
                guard,
                allow: wanted.allow.clone(),
                created_at: clock::unix_seconds(),
            };
            let inserted = self.store().insert_publication(publication).await;
            attempts -= 1;
            match inserted {
                Ok(kept) if kept.existing && !kept.publication.is_like(&wanted) => {
                    return Err(differs(&kept.publication, view.name.as_str()));
                }
                Ok(kept) => {
                    let secret = secret.filter(|_| !kept.existing);
                    return Ok(Published { secret, ..kept });
                }
                Err(error) if error.kind == Kind::AliasTaken && attempts > 0 => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Withdraws a port. Whoever serves it to the public ends what goes on.
    ///
    /// # Errors
    /// [`Kind::PublicationNotFound`].
    pub async fn unpublish(&self, sandbox: &Sandbox, port: u16) -> Result<()> {
        let id = sandbox.view().id;
        if self.store().delete_publication(&id, port).await? {
            return Ok(());
        }
        let message = format!("port {port} of {} is not published", sandbox.view().name);
        Err(Error::new(Kind::PublicationNotFound, message)
            .hint("see what is published: bhatti published"))
    }

    /// What is published below an alias. Memory only.
    pub fn by_alias(&self, alias: &str) -> Option<(Arc<Publication>, Sandbox)> {
        let publication = self.store().publication(alias)?;
        let sandbox = self.sandbox_of(&publication)?;
        Some((publication, sandbox))
    }

    /// The sandbox that something is published of, if there still is one. Memory only.
    pub fn sandbox_of(&self, publication: &Publication) -> Option<Sandbox> {
        self.node.registry.by_id(&publication.sandbox)
    }
}

fn check(wanted: &PublishRequest) -> Result<()> {
    let invalid = |message: String| Err(Error::new(Kind::InvalidRequest, message));
    if wanted.port == 0 {
        return invalid("a port is a number from 1 to 65535".to_owned());
    }
    if wanted.allow.len() > MOST_RANGES {
        return invalid(format!("a publication names at most {MOST_RANGES} ranges of addresses"));
    }
    if let WantedGuard::Basic { user } = &wanted.guard
        && (user.is_empty()
            || user.len() > USER_MAX
            || user.contains(':')
            || user.chars().any(char::is_control))
    {
        return invalid(format!("a user's name has 1 to {USER_MAX} bytes and no ':' in it"));
    }
    match wanted.place {
        WantedPlace::HostPort(0) => invalid("a port is a number from 1 to 65535".to_owned()),
        WantedPlace::HostPort(_) if wanted.guard != WantedGuard::Open => {
            invalid("a TCP port cannot ask for a token or a password".to_owned())
        }
        WantedPlace::HostPort(_) | WantedPlace::Alias(_) => Ok(()),
    }
}

fn place(wanted: &WantedPlace, sandbox: &str) -> Result<Place> {
    Ok(match wanted {
        WantedPlace::Alias(Some(alias)) => Place::Alias(alias.parse()?),
        WantedPlace::Alias(None) => Place::Alias(Alias::for_sandbox(sandbox)),
        WantedPlace::HostPort(port) => Place::HostPort(*port),
    })
}

/// The guard and the secret that opens it.
fn guard(wanted: &WantedGuard) -> (Guard, Option<String>) {
    let secret = base::random::hex::<16>();
    match wanted {
        WantedGuard::Open => (Guard::Open, None),
        WantedGuard::Token => {
            let token = format!("{TOKEN_PREFIX}{secret}");
            (Guard::Token { sha256: base::hash::bytes(token.as_bytes()) }, Some(token))
        }
        WantedGuard::Basic { user } => {
            let sha256 = base::hash::bytes(secret.as_bytes());
            (Guard::Basic { user: user.clone(), sha256 }, Some(secret))
        }
    }
}

fn differs(found: &Publication, sandbox: &str) -> Error {
    let message = format!("port {} of {sandbox} is published in another way", found.port);
    let hint = format!("withdraw it first: bhatti unpublish {sandbox} -p {}", found.port);
    Error::new(Kind::PublicationDiffers, message).hint(hint)
}

//! Which numbers networks and their members get.

use base::ids::UserId;
use net::address::{FIRST_HOST, LAST_HOST};
use rusqlite::{OptionalExtension as _, Transaction, params};

use crate::{Error, Kind, Result, record::Address};

/// The numbers that users' networks can have.
#[derive(Debug, Clone)]
pub(crate) struct Networks {
    /// They are below this.
    pub count: u32,
    /// These cannot be used, because something else on the host has their addresses.
    pub taken: Vec<u16>,
}

impl Networks {
    /// A place in the owner's network for another sandbox. The owner gets a network with the first.
    pub(super) fn free_address(
        &self,
        transaction: &Transaction<'_>,
        owner: &UserId,
    ) -> Result<Address> {
        let network = match network_of(transaction, owner)? {
            Some(network) => network,
            None => self.give(transaction, owner)?,
        };
        let used = numbers(
            transaction,
            "SELECT host FROM sandboxes WHERE owner = ?1 ORDER BY host",
            params![owner.as_str()],
        )?;
        let host =
            first_free(u32::from(FIRST_HOST)..=u32::from(LAST_HOST), &used).ok_or_else(|| {
                let message = format!("the network has no more than {} addresses", used.len());
                Error::new(Kind::QuotaSandboxes, message)
                    .hint("destroy a sandbox that is not needed, or use another user")
            })?;
        Ok(Address { network, host })
    }

    fn give(&self, transaction: &Transaction<'_>, owner: &UserId) -> Result<u16> {
        let mut used =
            numbers(transaction, "SELECT network FROM users WHERE network IS NOT NULL", [])?;
        used.extend(&self.taken);
        used.sort_unstable();
        let network = self.count.checked_sub(1).and_then(|last| first_free(0..=last, &used));
        let network = network.ok_or_else(|| {
            let message = format!("all {} networks of this node are taken", self.count);
            Error::new(Kind::QuotaSandboxes, message)
                .hint("an administrator can delete users or give the node a larger range")
        })?;
        transaction.execute(
            "UPDATE users SET network = ?2 WHERE id = ?1",
            params![owner.as_str(), network],
        )?;
        Ok(network)
    }
}

fn network_of(transaction: &Transaction<'_>, owner: &UserId) -> Result<Option<u16>> {
    let found = transaction
        .prepare_cached("SELECT network FROM users WHERE id = ?1")?
        .query_row([owner.as_str()], |row| row.get(0))
        .optional()?;
    Ok(found.flatten())
}

fn numbers(
    transaction: &Transaction<'_>,
    query: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<u16>> {
    let mut statement = transaction.prepare_cached(query)?;
    let found = statement.query_map(parameters, |row| row.get(0))?;
    Ok(found.collect::<std::result::Result<_, _>>()?)
}

/// The first of the numbers that is not among those used, which are in order.
fn first_free(numbers: impl Iterator<Item = u32>, used: &[u16]) -> Option<u16> {
    let mut free = numbers.filter(|n| !used.iter().any(|used| u32::from(*used) == *n));
    free.next().and_then(|n| u16::try_from(n).ok())
}

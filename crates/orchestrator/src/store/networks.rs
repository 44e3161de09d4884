//! Which numbers networks and their members get.

use base::ids::UserId;
use net::address::{FIRST_HOST, LAST_HOST, Pool};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use crate::{Error, Kind, Result, record::Address};

/// The numbers that users' networks can have.
#[derive(Debug, Clone)]
pub(crate) struct Networks {
    /// They are those of this range.
    pub pool: Pool,
    /// Whether there are networks, so that the host may be in their way.
    pub connected: bool,
}

impl Networks {
    /// A place in the owner's network for another sandbox. The owner gets a network with the first,
    /// none of those in `taken`. Numbers go round: what the last one to have a place was connected
    /// with has forgotten it by the time that another gets it.
    pub(super) fn free_address(
        &self,
        transaction: &Transaction<'_>,
        owner: &UserId,
        taken: &[u16],
    ) -> Result<Address> {
        let network = match network_of(transaction, owner)? {
            Some(network) => network,
            None => self.give(transaction, owner, taken)?,
        };
        let used = numbers(
            transaction,
            "SELECT host FROM sandboxes WHERE owner = ?1 ORDER BY host",
            params![owner.as_str()],
        )?;
        let last: u16 = transaction
            .prepare_cached("SELECT last_host FROM users WHERE id = ?1")?
            .query_row([owner.as_str()], |row| row.get(0))?;
        let host = next_free((FIRST_HOST, LAST_HOST), last, &used).ok_or_else(|| {
            let message = format!("the network has no more than {} addresses", used.len());
            Error::new(Kind::NetworkUnavailable, message)
                .hint("destroy a sandbox that is not needed, or use another user")
        })?;
        transaction
            .prepare_cached("UPDATE users SET last_host = ?2 WHERE id = ?1")?
            .execute(params![owner.as_str(), host])?;
        Ok(Address { network, host })
    }

    fn give(&self, transaction: &Transaction<'_>, owner: &UserId, taken: &[u16]) -> Result<u16> {
        let mut used =
            numbers(transaction, "SELECT network FROM users WHERE network IS NOT NULL", [])?;
        used.extend(taken);
        let last = transaction
            .query_row("SELECT last FROM numbers WHERE what = 'network'", [], |row| row.get(0))
            .optional()?;
        let highest = u16::try_from(self.pool.users() - 1).unwrap_or(u16::MAX);
        let network = next_free((0, highest), last.unwrap_or(highest), &used).ok_or_else(|| {
            let message = format!("all {} networks of this node are taken", self.pool.users());
            Error::new(Kind::NetworkUnavailable, message)
                .hint("an administrator can delete users or give the node a larger range")
        })?;
        transaction.execute(
            "UPDATE users SET network = ?2 WHERE id = ?1",
            params![owner.as_str(), network],
        )?;
        transaction.execute(
            "INSERT INTO numbers (what, last) VALUES ('network', ?1)
             ON CONFLICT (what) DO UPDATE SET last = excluded.last",
            [network],
        )?;
        Ok(network)
    }
}

/// The network of a user, if it has one.
pub(super) fn network_of(connection: &Connection, owner: &UserId) -> Result<Option<u16>> {
    let found = connection
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

/// The first number after the last one given that is not used; from the lowest on after the highest.
fn next_free((lowest, highest): (u16, u16), last: u16, used: &[u16]) -> Option<u16> {
    let after = last.saturating_add(1).clamp(lowest, highest);
    let after = if last >= highest { lowest } else { after };
    (after..=highest).chain(lowest..after).find(|number| !used.contains(number))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_number_comes_again_only_after_all_others(
            used in proptest::collection::btree_set(2u16..12, 0..10), last in 0u16..20,
        ) {
            let used: Vec<u16> = used.into_iter().collect();
            let found = next_free((2, 11), last, &used);
            prop_assert_eq!(found.is_none(), used.len() == 10);
            if let Some(found) = found {
                prop_assert!((2..=11).contains(&found) && !used.contains(&found));
                let from = if last >= 11 { 2 } else { last.max(1) + 1 };
                let skipped = (from..=11).chain(2..from).take_while(|number| *number != found);
                prop_assert!(skipped.into_iter().all(|number| used.contains(&number)));
            }
        }
    }
}

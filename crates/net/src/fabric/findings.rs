//! What differs between what should be there and what is.

use std::fmt;

use ipnet::Ipv4Net;

/// One difference, in words for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// An interface.
    Link {
        /// Its name.
        name: String,
        /// What is wrong with it.
        problem: Problem,
    },
    /// The addresses of an interface.
    Address {
        /// The interface's name.
        link: String,
        /// What it should have.
        wanted: Ipv4Net,
    },
    /// The way out of the namespace.
    DefaultRoute,
    /// A part of a table of packet rules.
    Rules {
        /// Family and name of the table.
        table: String,
        /// Which part: a chain, a set, a map or the whole.
        part: String,
        /// What is wrong with it.
        problem: Problem,
    },
    /// A kernel setting.
    Sysctl {
        /// Its path below `/proc/sys/net`.
        key: &'static str,
        /// What it should be.
        wanted: &'static str,
        /// What it is.
        found: String,
    },
    /// Somebody else's chain drops what is forwarded and has no place for exceptions.
    ForwardClosed {
        /// Family, table and name of the chain.
        chain: String,
    },
    /// Rules that only `iptables-legacy` shows may drop what is forwarded.
    LegacyRules,
    /// A range of ours is used by the host for something else by now.
    RangeTaken {
        /// Ours.
        range: Ipv4Net,
        /// The host's.
        by: Ipv4Net,
    },
}

/// What is wrong with something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// It is not there.
    Missing,
    /// It should not be there.
    Foreign,
    /// It is not as it should be.
    Changed,
}

impl Finding {
    /// Whether `repair` makes it good. The others are for the operator to decide.
    pub fn mendable(&self) -> bool {
        !matches!(self, Self::ForwardClosed { .. } | Self::LegacyRules | Self::RangeTaken { .. })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "is missing",
            Self::Foreign => "should not be there",
            Self::Changed => "was changed",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link { name, problem } => write!(f, "interface {name} {problem}"),
            Self::Address { link, wanted } => {
                write!(f, "interface {link} should have the address {wanted} and no other")
            }
            Self::DefaultRoute => f.write_str("the default route of the namespace was changed"),
            Self::Rules { table, part, problem } => {
                write!(f, "{part} of the nftables table {table} {problem}")
            }
            Self::Sysctl { key, wanted, found } => {
                write!(f, "net/{key} is {found} and should be {wanted}")
            }
            Self::ForwardClosed { chain } => write!(
                f,
                "the nftables chain {chain} drops what is forwarded, so sandboxes may not reach \
                 the internet: let packets from and to the interface of ours through"
            ),
            Self::LegacyRules => f.write_str(
                "rules of iptables-legacy are in use, which may keep sandboxes from the internet: \
                 see iptables-legacy -L FORWARD",
            ),
            Self::RangeTaken { range, by } => {
                write!(f, "{range} is used for sandboxes and, as a part of {by}, by this host")
            }
        }
    }
}

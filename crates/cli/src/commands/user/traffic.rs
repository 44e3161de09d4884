//! What a user's sandboxes may reach, as flags say it.

use api::{Egress, NetworkLimits};

use crate::commands::traffic::{self, Mode};

/// The flags.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Traffic {
    /// What none of the user's sandboxes exceeds, whatever it says itself; default is no such limit
    /// [with --allow-host: allowlist]
    #[arg(long, value_enum, value_name = "WHAT")]
    egress: Option<Mode>,
    /// Host that they may reach at most: a name, or *.DOMAIN for all below it; repeatable
    #[arg(long = "allow-host", value_name = "HOST")]
    allow_hosts: Vec<String>,
    /// Range that they may reach at most; repeatable. They may open a private one named here
    #[arg(long = "allow-cidr", value_name = "CIDR")]
    allow_cidrs: Vec<String>,
    /// What those may reach that do not say; default is the internet
    /// [with --default-allow-host: allowlist]
    #[arg(long, value_enum, value_name = "WHAT")]
    default_egress: Option<Mode>,
    /// Host that those may reach that do not say; repeatable
    #[arg(long = "default-allow-host", value_name = "HOST")]
    default_hosts: Vec<String>,
    /// Range that those may reach that do not say; repeatable
    #[arg(long = "default-allow-cidr", value_name = "CIDR")]
    default_cidrs: Vec<String>,
    /// Most bytes in a second of each of them, each way: such as 500K, 10M
    #[arg(long, value_name = "BYTES", value_parser = traffic::rate)]
    bandwidth: Option<u32>,
    /// Most packets in a second of each of them, each way
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    packets: Option<u32>,
    /// Take the limits of bytes and packets away
    #[arg(long, conflicts_with_all = ["bandwidth", "packets"])]
    unlimited: bool,
}

impl Traffic {
    /// What none of them exceeds, if anything was said about that.
    pub(super) fn ceiling(&self) -> Option<Egress> {
        traffic::egress(self.egress, &self.allow_hosts, &self.allow_cidrs)
    }

    /// What those get that do not say, if anything was said about that.
    pub(super) fn default(&self) -> Option<Egress> {
        traffic::egress(self.default_egress, &self.default_hosts, &self.default_cidrs)
    }

    /// The limits, if anything was said about them.
    pub(super) fn limits(&self) -> Option<NetworkLimits> {
        let limits =
            NetworkLimits { bytes_per_second: self.bandwidth, packets_per_second: self.packets };
        (self.unlimited || limits != NetworkLimits::default()).then_some(limits)
    }
}

//! What sandboxes may reach: flags that set it, and words that show it.

use api::{Egress, EgressMode, NetworkLimits, Sandbox};

/// The flags.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Traffic {
    /// What it may reach beyond its owner's network, as far as its user may; default is what its
    /// user's sandboxes get that do not say [with --allow-host: allowlist]
    #[arg(long, value_enum, value_name = "WHAT")]
    egress: Option<Mode>,
    /// Host that may be reached: a name, or *.DOMAIN for all below it; repeatable
    #[arg(long = "allow-host", value_name = "HOST")]
    allow_hosts: Vec<String>,
    /// Range that may be reached in every mode; repeatable. Private ones need an admin
    #[arg(long = "allow-cidr", value_name = "CIDR")]
    allow_cidrs: Vec<String>,
    /// Most bytes in a second, each way: such as 500K, 10M
    #[arg(long, value_name = "BYTES", value_parser = rate)]
    bandwidth: Option<u32>,
    /// Most packets in a second, each way
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    packets: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// The internet
    Open,
    /// Nothing
    Deny,
    /// What --allow-host and --allow-cidr say
    Allowlist,
    /// What the next wider setting says
    Default,
}

impl Traffic {
    /// What it may reach, if anything was said about that.
    pub(crate) fn egress(&self) -> Option<Egress> {
        egress(self.egress, &self.allow_hosts, &self.allow_cidrs)
    }

    /// The limits, if there are to be any.
    pub(crate) fn limits(&self) -> Option<NetworkLimits> {
        let limits =
            NetworkLimits { bytes_per_second: self.bandwidth, packets_per_second: self.packets };
        (limits != NetworkLimits::default()).then_some(limits)
    }
}

/// What may be reached, if anything was said about that.
pub(crate) fn egress(mode: Option<Mode>, hosts: &[String], ranges: &[String]) -> Option<Egress> {
    let mode = match mode {
        None if hosts.is_empty() && ranges.is_empty() => return None,
        None if hosts.is_empty() => EgressMode::Open,
        None | Some(Mode::Allowlist) => EgressMode::Allowlist,
        Some(Mode::Open) => EgressMode::Open,
        Some(Mode::Deny) => EgressMode::Deny,
        Some(Mode::Default) => EgressMode::Default,
    };
    Some(Egress { mode, allow_hosts: hosts.to_vec(), allow_cidrs: ranges.to_vec() })
}

/// Reads a rate.
pub(crate) fn rate(text: &str) -> Result<u32, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let unit: u64 = match unit {
        "" => 1,
        "K" | "k" => 1000,
        "M" | "m" => 1_000_000,
        _ => return Err("it has to be a number of bytes such as 500K or 10M".to_owned()),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    match bytes.and_then(|bytes| u32::try_from(bytes).ok()) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err("it has to be 1 byte to 4294M".to_owned()),
    }
}

/// A rate as it is typed.
fn typed(bytes: u32) -> String {
    match bytes {
        _ if bytes.is_multiple_of(1_000_000) => format!("{}M", bytes / 1_000_000),
        _ if bytes.is_multiple_of(1000) => format!("{}K", bytes / 1000),
        _ => bytes.to_string(),
    }
}

/// What a sandbox may reach, in one line; nothing if it has no network.
pub(crate) fn reach(sandbox: &Sandbox) -> Option<String> {
    let line = policy(sandbox.egress.as_ref()?, sandbox.network_limits);
    Some(if sandbox.egress_by_default { format!("{line} (default)") } else { line })
}

/// What it may reach in the end, in one line; nothing if that is what it asks for.
pub(crate) fn effective(sandbox: &Sandbox) -> Option<String> {
    let asked = (sandbox.egress.as_ref(), sandbox.network_limits);
    let holds = (sandbox.effective_egress.as_ref(), sandbox.effective_network_limits);
    (asked != holds).then(|| Some(policy(holds.0?, holds.1))).flatten()
}

/// A policy in one line.
pub(crate) fn policy(egress: &Egress, limits: Option<NetworkLimits>) -> String {
    let mut words = vec![egress.mode.to_string()];
    let listed = egress.allow_hosts.iter().chain(&egress.allow_cidrs).cloned();
    let listed: Vec<String> = listed.collect();
    if !listed.is_empty() {
        words.push(listed.join(","));
    }
    words.extend(limits.map(self::limits).filter(|limits| !limits.is_empty()));
    words.join(", ")
}

/// Limits in one line; empty if there are none.
pub(crate) fn limits(limits: NetworkLimits) -> String {
    let bytes = limits.bytes_per_second.map(|bytes| format!("{} bytes/s", typed(bytes)));
    let packets = limits.packets_per_second.map(|packets| format!("{packets} packets/s"));
    bytes.into_iter().chain(packets).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{Command, inspect::tests::sandbox, tests::try_args};

    fn asked(line: &str) -> Traffic {
        match try_args(&format!("edit dev {line}")) {
            Ok(Command::Edit(args)) => args.traffic,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn hosts_make_an_allow_list_and_ranges_alone_do_not() {
        assert_eq!(asked("--label a=b").egress(), None);
        let hosts = asked("--allow-host *.debian.org --allow-host a.example").egress().unwrap();
        assert_eq!((hosts.mode, hosts.allow_hosts.len()), (EgressMode::Allowlist, 2));
        let ranges = asked("--allow-cidr 192.168.1.0/24").egress().unwrap();
        assert_eq!(ranges.mode, EgressMode::Open);
        assert_eq!(asked("--egress deny").egress().unwrap().mode, EgressMode::Deny);
        assert!(try_args("edit dev --egress ajar").is_err());
    }

    #[test]
    fn a_rate_is_a_number_of_bytes() {
        for text in ["500K", "10M", "1234"] {
            assert_eq!(typed(rate(text).unwrap()), text);
        }
        assert_eq!(asked("--bandwidth 500K").limits().unwrap().bytes_per_second, Some(500_000));
        assert_eq!(asked("--packets 10").limits().unwrap().packets_per_second, Some(10));
        assert_eq!(asked("--label a=b").limits(), None);
        for bad in ["0", "K", "1G", "5000M", "-1"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_may_be_reached_is_one_line() {
        assert_eq!(reach(&sandbox()), None);
        let egress = Egress {
            mode: EgressMode::Allowlist,
            allow_hosts: vec!["a.example".into()],
            allow_cidrs: vec!["203.0.113.0/24".into()],
        };
        let limits =
            NetworkLimits { bytes_per_second: Some(2_000_000), packets_per_second: Some(9) };
        let limited = Sandbox { egress: Some(egress), network_limits: Some(limits), ..sandbox() };
        let line = "allowlist, a.example,203.0.113.0/24, 2M bytes/s, 9 packets/s";
        assert_eq!(reach(&limited).unwrap(), line);
        let held = Sandbox {
            egress_by_default: true,
            effective_egress: limited.egress.clone(),
            effective_network_limits: limited.network_limits,
            ..limited
        };
        assert_eq!(reach(&held).unwrap(), format!("{line} (default)"));
        assert_eq!(effective(&held), None);
        let least = NetworkLimits { packets_per_second: Some(3), ..limits };
        let held = Sandbox { effective_network_limits: Some(least), ..held };
        assert_eq!(effective(&held).unwrap(), line.replace("9 packets", "3 packets"));
    }
}

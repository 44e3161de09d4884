//! What requests say about networks, in the orchestrator's terms and back.

use api::{EgressAttempt, EgressMode, ErrorCode, Network};
use orchestrator::{
    egress::{Attempt, Protocol},
    model::{NetworkSpec, UserEdit},
    policy::{Caps, Egress, HostPattern, Mode},
};

use crate::{failure::Failure, show};

/// Most entries of a list.
const LIST_MAX: usize = 256;

/// How a new sandbox is connected.
pub(crate) fn spec(
    network: Option<Network>,
    egress: Option<api::Egress>,
    limits: Option<api::NetworkLimits>,
) -> Result<NetworkSpec, Failure> {
    let isolated = match network {
        None | Some(Network::User) => false,
        Some(Network::None) => true,
        Some(Network::Unknown(word)) => {
            return Err(invalid(format!("network is user or none, not {:?}", shown(&word))));
        }
    };
    if isolated && (egress.is_some() || limits.is_some()) {
        return Err(invalid("a sandbox without a network has no egress and no limits".to_owned()));
    }
    let egress = egress.map(self::egress).transpose()?.flatten();
    Ok(NetworkSpec { isolated, egress, caps: caps(limits.unwrap_or_default())? })
}

/// What a user's sandboxes may reach, as it is to be from now on.
pub(crate) fn user_edit(
    ceiling: Option<api::Egress>,
    default: Option<api::Egress>,
    limits: Option<api::NetworkLimits>,
) -> Result<UserEdit, Failure> {
    Ok(UserEdit {
        ceiling: ceiling.map(egress).transpose()?,
        default_egress: default.map(egress).transpose()?,
        caps: limits.map(caps).transpose()?,
        ..UserEdit::default()
    })
}

/// What may be reached; nothing if the next wider setting is to say.
pub(crate) fn egress(wanted: api::Egress) -> Result<Option<Egress>, Failure> {
    let api::Egress { mode, allow_hosts, allow_cidrs } = wanted;
    let mode = match mode {
        EgressMode::Default if allow_hosts.is_empty() && allow_cidrs.is_empty() => return Ok(None),
        EgressMode::Default => {
            return Err(invalid("the default has no lists of its own".to_owned()));
        }
        EgressMode::Open => Mode::Open,
        EgressMode::Deny => Mode::Deny,
        EgressMode::Allowlist => Mode::Allowlist,
        EgressMode::Unknown(word) => {
            let message =
                format!("egress is open, deny, allowlist or default, not {:?}", shown(&word));
            return Err(invalid(message));
        }
    };
    if mode != Mode::Allowlist && !allow_hosts.is_empty() {
        return Err(invalid("allow_hosts needs the mode allowlist".to_owned()));
    }
    if allow_hosts.len() > LIST_MAX || allow_cidrs.len() > LIST_MAX {
        return Err(invalid(format!("a list has at most {LIST_MAX} entries")));
    }
    let hosts = allow_hosts.iter().map(|host| host.parse::<HostPattern>());
    let hosts = hosts.collect::<Result<_, _>>().map_err(|error| invalid(error.to_string()))?;
    let cidrs = allow_cidrs.iter().map(|range| self::range(range)).collect::<Result<_, _>>()?;
    Ok(Some(Egress { mode, hosts, cidrs, outside: Vec::new() }))
}

fn range(text: &str) -> Result<ipnet::IpNet, Failure> {
    let address = || text.parse::<std::net::IpAddr>().map(ipnet::IpNet::from).ok();
    text.parse()
        .ok()
        .or_else(address)
        .ok_or_else(|| invalid(format!("{:?} is not a range such as 203.0.113.0/24", shown(text))))
}

/// Limits of a sandbox's traffic.
pub(crate) fn caps(limits: api::NetworkLimits) -> Result<Caps, Failure> {
    let api::NetworkLimits { bytes_per_second, packets_per_second } = limits;
    if bytes_per_second == Some(0) || packets_per_second == Some(0) {
        return Err(invalid("a limit is at least 1; leave it out for none".to_owned()));
    }
    Ok(Caps { bytes_per_second, packets_per_second })
}

/// What a sandbox may reach, as it is shown.
pub(crate) fn shown_egress(egress: &Egress) -> api::Egress {
    api::Egress {
        mode: match egress.mode {
            Mode::Open => EgressMode::Open,
            Mode::Deny => EgressMode::Deny,
            Mode::Allowlist => EgressMode::Allowlist,
        },
        allow_hosts: egress.hosts.iter().map(ToString::to_string).collect(),
        allow_cidrs: egress.cidrs.iter().chain(&egress.outside).map(ToString::to_string).collect(),
    }
}

/// Limits, as they are shown.
pub(crate) fn shown_caps(caps: Caps) -> Option<api::NetworkLimits> {
    let Caps { bytes_per_second, packets_per_second } = caps;
    (caps != Caps::default()).then_some(api::NetworkLimits { bytes_per_second, packets_per_second })
}

/// A line of an egress log, as it is shown.
pub(crate) fn attempt(attempt: &Attempt) -> EgressAttempt {
    let target = &attempt.target;
    EgressAttempt {
        last_at: show::time(i64::try_from(attempt.last.as_secs()).unwrap_or(i64::MAX)),
        count: attempt.count,
        protocol: match target.protocol {
            Protocol::Dns => "dns".to_owned(),
            Protocol::Tcp => "tcp".to_owned(),
            Protocol::Udp => "udp".to_owned(),
            Protocol::Icmp => "icmp".to_owned(),
            Protocol::Other(number) => number.to_string(),
        },
        address: target.address.map(|address| address.to_string()),
        port: Some(target.port).filter(|port| *port != 0),
        host: target.host.as_deref().map(str::to_owned),
        allowed: target.allowed,
        reason: target.reason.as_str().to_owned(),
    }
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

fn invalid(message: String) -> Failure {
    Failure::new(ErrorCode::InvalidRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Egress, String> {
        let read = egress(serde_json::from_str(json).unwrap());
        read.map(Option::unwrap_or_default).map_err(|failure| failure.message().to_owned())
    }

    #[test]
    fn a_policy_is_shown_as_it_was_said() {
        let json = concat!(
            r#"{"mode":"allowlist","allow_hosts":["api.example.com","*.debian.org"],"#,
            r#""allow_cidrs":["203.0.113.0/24"]}"#
        );
        let policy = read(json).unwrap();
        assert_eq!(serde_json::to_string(&shown_egress(&policy)).unwrap(), json);
        let one = read(r#"{"mode":"deny","allow_cidrs":["203.0.113.9"]}"#).unwrap();
        assert_eq!(shown_egress(&one).allow_cidrs, ["203.0.113.9/32"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_reason() {
        for (json, reason) in [
            (r#"{"mode":"ajar"}"#, "ajar"),
            (r#"{"mode":"open","allow_hosts":["a.b"]}"#, "allowlist"),
            (r#"{"mode":"default","allow_cidrs":["1.1.1.1"]}"#, "default"),
            (r#"{"mode":"allowlist","allow_hosts":["1.2.3.4"]}"#, "1.2.3.4"),
            (r#"{"mode":"deny","allow_cidrs":["all"]}"#, "all"),
        ] {
            let message = read(json).unwrap_err();
            assert!(message.contains(reason), "{message}");
        }
        let egress = Some(api::Egress {
            mode: EgressMode::Open,
            allow_hosts: Vec::new(),
            allow_cidrs: Vec::new(),
        });
        assert!(spec(Some(Network::None), egress, None).is_err());
        let limits = api::NetworkLimits { bytes_per_second: Some(0), packets_per_second: None };
        assert!(caps(limits).is_err());
    }
}

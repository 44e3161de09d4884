//! The rules, as text for `nft -f`. Each script is one transaction.
//!
//! A frame from a sandbox meets the bridge table first, which lets through only IPv4 and ARP with
//! the sender's own addresses. Packets that leave their network then meet the inet table. Rules
//! never change: sets do, so what a packet passes does not grow with the number of sandboxes.

use std::fmt::Write as _;

use super::{
    plan::{Connections, Plan, SHARES, UPLINK, UplinkRange, add_elements},
    settings::{LOG_PASSED, LOG_REFUSED, Settings},
};
use crate::egress::FORBIDDEN;

/// A log line costs the daemon time, so it is not told of everything that a sandbox is refused or
/// opens; what one does all the time hides nothing of the others.
const LOG_RATE: &str = "update @told { ip saddr limit rate 50/second burst 100 packets } \
                        limit rate 2000/second burst 4000 packets";

/// Questions that a sandbox may ask the name server in a second, which one task reads of all.
const QUESTION_RATE: &str = "rate over 2000/second burst 4000 packets";

/// Other packets than TCP and UDP, which have no port to count them by, in a second through the
/// host and of all sandboxes, as far as they are the first of their kind.
const PORTLESS_RATE: &str = "rate over 50/second burst 200 packets";

/// Sets that packets themselves add to: who has connections, and who did something lately.
pub(super) const BY_PACKETS: [&str; 5] = ["connections", "users", "shares", "asked", "told"];

/// Both tables of the namespace, made or replaced as a whole. Connections live on: what is known
/// of them is not part of a table.
pub(super) fn namespace(plan: &Plan) -> String {
    let items = plan.items();
    let mut script = String::from(
        "add table bridge bhatti\ndelete table bridge bhatti\n\
         add table inet bhatti\ndelete table inet bhatti\n",
    );
    script.push_str(BRIDGE);
    script.push_str(&inet(plan));
    for (name, rate) in &items.limits {
        let _ = writeln!(script, "add limit bridge bhatti {name} {{ {rate}; }}");
    }
    add_elements(&mut script, &items.elements);
    script
}

/// The input hook is there for frames to link-local groups, which do not pass the one before.
const BRIDGE: &str = "table bridge bhatti {
    counter refused { }
    set places { type ifname . ether_addr . ipv4_addr; }
    map from_bytes { type ifname : limit; }
    map from_packets { type ifname : limit; }
    map to_bytes { type ifname : limit; }
    map to_packets { type ifname : limit; }
    chain from {
        type filter hook prerouting priority filter; policy drop;
        limit name iifname map @from_packets drop
        limit name iifname map @from_bytes drop
        ether type vmap { ip : jump packet, arp : jump neighbour }
        counter name refused
    }
    chain local {
        type filter hook input priority filter; policy drop;
        ether type vmap { ip : jump packet, arp : jump neighbour }
        counter name refused
    }
    chain packet {
        iifname . ether saddr . ip saddr @places accept
    }
    chain neighbour {
        arp htype != 1 return
        arp ptype != ip return
        arp hlen != 6 return
        arp plen != 4 return
        arp operation != { request, reply } return
        iifname . ether saddr . arp saddr ip != @places return
        iifname . arp saddr ether . arp saddr ip @places accept
    }
    chain to {
        type filter hook postrouting priority filter; policy accept;
        limit name oifname map @to_packets drop
        limit name oifname map @to_bytes drop
    }
}
";

fn inet(plan: &Plan) -> String {
    let sets = inet_sets(&plan.settings);
    let judgement = judgement(&plan.settings, plan.connections);
    let refusals = refusals(plan.rejects);
    format!("table inet bhatti {{\n{sets}{judgement}{refusals}{OWN_TRAFFIC}}}\n")
}

/// What is looked up, and what happens to packets before it is known where they go. Whether an
/// address has ranges at all is asked first: looking through those of all is slow.
fn inet_sets(settings: &Settings) -> String {
    let own = settings.forbidden.iter().map(|range| range.trunc().to_string());
    let all: Vec<String> = FORBIDDEN.iter().map(ToString::to_string).chain(own).collect();
    let (forbidden, port) = (all.join(", "), settings.proxy_port);
    format!(
        "    set forbidden {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {forbidden} }}; }}
    set ranged {{ type ipv4_addr; }}
    set allowed {{ type ipv4_addr . ipv4_addr; flags interval; }}
    set outside {{ type ipv4_addr . ipv4_addr; flags interval; }}
    set restricted {{ type ipv4_addr; }}
    set inspected {{ type ipv4_addr; }}
    set gateways {{ type ifname . ipv4_addr; }}
    set connections {{ type ipv4_addr; size 1048576; flags dynamic; }}
    set users {{ type ifname; size 65536; flags dynamic; }}
    set asked {{ type ipv4_addr; size 1048576; flags dynamic,timeout; timeout 10s; }}
    set told {{ type ipv4_addr; size 1048576; flags dynamic,timeout; timeout 10s; }}
    chain early {{
        type filter hook prerouting priority raw; policy accept;
        meta nfproto ipv6 drop
        iifname \"bt*\" drop
    }}
    chain divert {{
        type nat hook prerouting priority dstnat; policy accept;
        iifname != \"bb*\" return
        ip saddr != @inspected return
        ip saddr @ranged ip saddr . ip daddr @allowed return
        ip daddr @forbidden return
        ip saddr @ranged ip saddr . ip daddr @outside return
        meta l4proto tcp redirect to :{port}
    }}
"
    )
}

/// What may come in and what may pass. Whether a sandbox may send something is asked for each
/// packet and not only for a connection's first, so that a new policy holds for all.
fn judgement(settings: &Settings, connections: Connections) -> String {
    let port = settings.proxy_port;
    let Connections { sandbox, user, share: _ } = connections;
    format!(
        "    chain count {{
        add @connections {{ ip saddr ct count over {sandbox} }} goto refuse_count
        add @users {{ iifname ct count over {user} }} goto refuse_count
    }}
    chain input {{
        type filter hook input priority filter; policy drop;
        iifname \"bb*\" udp dport 53 update @asked {{ ip saddr limit {QUESTION_RATE} }} drop
        ct state established,related accept
        ct state new jump count
        iifname . ip daddr @gateways meta l4proto {{ tcp, udp }} th dport 53 accept
        iifname . ip daddr @gateways icmp type echo-request accept
        iifname \"bb*\" ct status dnat tcp dport {port} accept
        iifname \"bb*\" goto refuse_host
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        iifname \"bb*\" oifname \"{UPLINK}\" goto egress
        iifname \"{UPLINK}\" oifname \"bb*\" ct state established,related accept
        iifname \"bb*\" goto refuse_network
    }}
    chain egress {{
        ct state invalid drop
        ip saddr @ranged ip saddr . ip daddr @allowed goto pass
        ip daddr @forbidden goto refuse_range
        ip saddr != @restricted goto pass
        ip saddr @ranged ip saddr . ip daddr @outside goto pass
        goto refuse_policy
    }}
    chain pass {{
        ct state new jump count
        ct state new {LOG_RATE} log prefix \"open\" group {LOG_PASSED}
        accept
    }}
"
    )
}

/// One chain for each reason, which the log names. Who is refused is told so, to give up at once.
fn refusals(rejects: bool) -> String {
    let told = "        meta l4proto tcp reject with tcp reset
        reject with icmp type admin-prohibited
";
    let chains = ["range", "policy", "network", "host", "count"].map(|reason| {
        format!(
            "    chain refuse_{reason} {{
        ct state new {LOG_RATE} log prefix \"deny {reason}\" group {LOG_REFUSED}
        goto refuse
    }}
"
        )
    });
    let told = if rejects { told } else { "" };
    format!("    chain refuse {{\n{told}        drop\n    }}\n{}", chains.concat())
}

/// What the daemon itself sends from here: the proxy asks for names that guests choose, so it is
/// not to reach what they are not. No guest chooses the port by which the host counts.
const OWN_TRAFFIC: &str = "    chain output {
        type filter hook output priority filter; policy accept;
        meta nfproto ipv6 drop
        ct state established,related accept
        oifname \"uplink\" ip daddr @forbidden drop
    }
    chain translate {
        type nat hook postrouting priority srcnat; policy accept;
        oifname \"uplink\" masquerade fully-random
    }
";

/// The set of the host's interfaces between which nothing was forwarded before us.
pub(super) const CLOSED: &str = "closed";

/// Our table in the host. It judges what comes from or goes to our link, and what the host would
/// not have forwarded if not for us. What somebody else's rules have sent to another place, such as a
/// container's published port, is none of the internet.
pub(super) fn host(plan: &Plan, range: UplinkRange) -> String {
    let (settings, range) = (&plan.settings, range.0);
    let (table, link) = (settings.host_table(), settings.host_link());
    let (mask, share) = (SHARES - 1, plan.connections.share);
    let names: Vec<String> =
        plan.closed.iter().flatten().map(|name| format!("\"{name}\"")).collect();
    let elements = match names.is_empty() {
        true => String::new(),
        false => format!(" elements = {{ {} }};", names.join(", ")),
    };
    format!(
        "add table inet {table}
delete table inet {table}
table inet {table} {{
    set shares {{ type inet_service; size {SHARES}; flags dynamic; }}
    set {CLOSED} {{ type ifname;{elements} }}
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname != \"{link}\" return
        ct state established,related accept
        drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname @{CLOSED} oifname @{CLOSED} ct state new drop
        oifname \"{link}\" ct state established,related accept
        oifname \"{link}\" drop
        iifname != \"{link}\" return
        meta nfproto ipv6 drop
        ip saddr != {range} drop
        ct status dnat drop
        ct state new meta l4proto != {{ tcp, udp }} limit {PORTLESS_RATE} drop
        ct state new meta l4proto {{ tcp, udp }} add @shares {{ th sport & {mask} ct count over {share} }} drop
    }}
    chain translate {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {range} oifname != \"{link}\" masquerade
    }}
}}
"
    )
}

/// Removes our table from the host, also if it is not there.
pub(super) fn no_host(settings: &Settings) -> String {
    let table = settings.host_table();
    format!("add table inet {table}\ndelete table inet {table}\n")
}

#[cfg(test)]
mod tests;

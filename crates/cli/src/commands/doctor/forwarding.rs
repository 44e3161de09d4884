//! Whether the host forwards packets for anybody, as it may since it does so for sandboxes.

use base::process::Command;

/// Whether anybody's packets are forwarded, between all interfaces that there are. What cannot be
/// found out is no reason to warn.
pub(super) fn for_anybody() -> bool {
    let forwards = fs_err::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap_or_default();
    let list = |what: &str| Command::new("nft").args(["list", what]).output();
    match (list("chains"), list("sets")) {
        (Ok(chains), Ok(sets)) => {
            is_open(&forwards, &String::from_utf8_lossy(&chains), &String::from_utf8_lossy(&sets))
        }
        _ => false,
    }
}

/// Decides by the kernel's setting and by what nft prints: whether somebody filters what is
/// forwarded, or our own table keeps interfaces apart that were so before.
fn is_open(forwards: &str, chains: &str, sets: &str) -> bool {
    let mut ours = false;
    let mut filtered = false;
    for line in chains.lines() {
        if let Some(table) = line.strip_prefix("table ") {
            ours = table.split(' ').nth(1).is_some_and(|name| name.starts_with("bhatti_"));
        }
        filtered |= line.contains("hook forward") && !ours;
    }
    let kept = sets.split("set ").any(|set| {
        set.starts_with("closed ")
            && set.split('}').next().is_some_and(|set| set.contains("elements"))
    });
    forwards.trim() == "1" && !filtered && !kept
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "table inet bhatti_a {\n\tchain forward {\n\t\ttype filter hook forward \
                        priority filter; policy accept;\n\t}\n}\n";

    #[test]
    fn a_host_is_open_if_it_forwards_and_nobody_filters() {
        assert!(is_open("1\n", "", ""));
        assert!(!is_open("0\n", "", ""));
        let empty = "table inet bhatti_a {\n\tset closed {\n\t\ttype ifname\n\t}\n}\n";
        assert!(is_open("1\n", OURS, empty));
        let kept = empty.replace("ifname", "ifname\n\t\telements = { \"eth0\" }");
        assert!(!is_open("1\n", OURS, &kept));
        let others = format!("{OURS}{}", OURS.replace("bhatti_a", "filter"));
        assert!(!is_open("1\n", &others, empty));
    }
}

//! Kernel settings of a network namespace.

use std::{io, path::Path};

use super::{NetError, namespace::Namespace};

/// A setting below `/proc/sys/net`.
pub(super) type Setting = (&'static str, &'static str);

/// Routing in the host, without which nothing gets out.
pub(super) const HOST: [Setting; 1] = [("ipv4/ip_forward", "1")];

/// Everything that our own namespace needs. The first one resets others, so it comes first.
pub(super) const OWN: [Setting; 16] = [
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/rp_filter", "1"),
    ("ipv4/conf/default/rp_filter", "1"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/default/accept_redirects", "0"),
    ("ipv4/conf/all/accept_source_route", "0"),
    // A gateway's address is told only in its own network.
    ("ipv4/conf/all/arp_ignore", "1"),
    ("ipv4/conf/all/arp_announce", "2"),
    ("ipv4/conf/all/route_localnet", "0"),
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
    // Frames between two sandboxes of one user are judged as frames and not as packets, too.
    ("bridge/bridge-nf-call-iptables", "0"),
    ("bridge/bridge-nf-call-ip6tables", "0"),
    ("bridge/bridge-nf-call-arptables", "0"),
];

/// Settings that differ from what they should be, with what they are. One that the kernel does
/// not have does not differ, because what it would switch off is not there.
pub(super) async fn differing(
    namespace: &Namespace,
    wanted: &'static [Setting],
) -> Result<Vec<(Setting, String)>, NetError> {
    let read = move || {
        let mut differing = Vec::new();
        for setting @ (key, value) in wanted {
            match fs_err::read_to_string(Path::new("/proc/sys/net").join(key)) {
                Ok(found) if found.trim() == *value => {}
                Ok(found) => differing.push((*setting, found.trim().to_owned())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(NetError::Sysctl { key: (*key).into(), value, source }),
            }
        }
        Ok(differing)
    };
    namespace.inside(read).await.map_err(NetError::namespace)?
}

/// Makes all settings what they should be and returns those that were not.
pub(super) async fn ensure(
    namespace: &Namespace,
    wanted: &'static [Setting],
) -> Result<Vec<Setting>, NetError> {
    let differing = differing(namespace, wanted).await?;
    let settings: Vec<Setting> = differing.into_iter().map(|(setting, _)| setting).collect();
    let made = settings.clone();
    let write = move || {
        for (key, value) in settings {
            fs_err::write(Path::new("/proc/sys/net").join(key), value)
                .map_err(|source| NetError::Sysctl { key: key.into(), value, source })?;
        }
        Ok::<_, NetError>(())
    };
    namespace.inside(write).await.map_err(NetError::namespace)??;
    Ok(made)
}

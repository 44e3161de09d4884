//! Where volumes may be mounted.

use crate::{Error, Kind, Result, model::VolumeRequest};

/// Most volumes of one sandbox.
const MOST: usize = 8;

/// Longest path, bytes.
const PATH_MAX: usize = 1024;

/// What a guest does not work without, or what would hide the system. Below these is allowed.
const FORBIDDEN: [&str; 17] = [
    "/",
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/tmp",
    "/etc",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/usr",
    "/usr/local/bin",
    "/boot",
    "/root",
    "/var",
    "/var/log",
];

/// Below these nothing is allowed either: the kernel makes what is there, or the agent, which must not
/// wait for a volume.
const CLOSED: [&str; 7] =
    ["/proc", "/sys", "/dev", "/run/bhatti", "/var/log/bhatti", "/lib/modules", "/usr/lib/modules"];

/// The same requests with paths in their shortest form.
///
/// # Errors
/// [`Kind::InvalidRequest`] if a volume cannot be where it is wanted.
pub(crate) fn check(requests: Vec<VolumeRequest>) -> Result<Vec<VolumeRequest>> {
    if requests.len() > MOST {
        return Err(bad(format!("volumes: at most {MOST} in one sandbox")));
    }
    let mut checked: Vec<VolumeRequest> = Vec::with_capacity(requests.len());
    for request in requests {
        let target = target(&request.target)?;
        for other in &checked {
            if other.name == request.name {
                return Err(bad(format!("volumes: {:?} is there twice", request.name)));
            }
            let (one, two) = (&other.target, &target);
            if is_below(one, two) || is_below(two, one) {
                let message = format!("volumes: {one} and {two} lie in each other");
                return Err(bad(message).hint("give each a directory of its own"));
            }
        }
        checked.push(VolumeRequest { target, ..request });
    }
    Ok(checked)
}

/// The path without what it can do without.
fn target(wanted: &str) -> Result<String> {
    let shown: String = wanted.chars().take(80).collect();
    let refuse = |why: &str| bad(format!("volumes: {shown:?} cannot be a mount point: {why}"));
    if !wanted.starts_with('/') {
        return Err(refuse("it is not an absolute path"));
    }
    if wanted.len() > PATH_MAX || wanted.chars().any(char::is_control) {
        return Err(refuse("it is too long or has control characters"));
    }
    let parts: Vec<&str> = wanted.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err(refuse("it has \"..\" in it"));
    }
    let path = format!("/{}", parts.join("/"));
    if FORBIDDEN.contains(&path.as_str()) {
        return Err(refuse("the system needs what is there").hint("mount it below: /data, /srv/…"));
    }
    match CLOSED.iter().find(|closed| is_below(&path, closed)) {
        Some(closed) => Err(refuse(&format!("what is in {closed} is not yours"))),
        None => Ok(path),
    }
}

/// Whether a path is another or lies below it.
fn is_below(path: &str, other: &str) -> bool {
    path.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn bad(message: String) -> Error {
    Error::new(Kind::InvalidRequest, message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(name: &str, target: &str) -> VolumeRequest {
        VolumeRequest { name: name.to_owned(), target: target.to_owned(), read_only: false }
    }

    fn targets(wanted: &[&str]) -> Result<Vec<String>> {
        let requests = wanted.iter().enumerate().map(|(n, path)| request(&n.to_string(), path));
        Ok(check(requests.collect())?.into_iter().map(|request| request.target).collect())
    }

    #[test]
    fn paths_are_made_plain_and_what_the_system_needs_is_refused() {
        assert_eq!(targets(&["//data/./x/", "/usr/local"]).unwrap(), ["/data/x", "/usr/local"]);
        let closed = ["/proc/1", "/dev/pts", "/run/bhatti/x", "/lib/modules"];
        for bad in FORBIDDEN.iter().chain(&closed).chain(&["", "data", "/a/../etc", "/a\nb"]) {
            assert_eq!(targets(&[bad]).unwrap_err().kind, Kind::InvalidRequest, "{bad}");
            assert!(targets(&[&format!("{bad}/.")]).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_volume_hides_another() {
        assert!(targets(&["/data", "/data2"]).is_ok());
        for pair in [["/data", "/data"], ["/data", "/data/x"], ["/data/x", "/data/"]] {
            assert!(targets(&pair).is_err(), "{pair:?}");
        }
        let twice = vec![request("a", "/x"), request("a", "/y")];
        assert!(check(twice).unwrap_err().message.contains("twice"));
        let many = (0..=MOST).map(|n| request(&n.to_string(), &format!("/d{n}"))).collect();
        assert!(check(many).is_err());
    }

    proptest! {
        #[test]
        fn what_is_let_through_is_plain(path in "(/|\\.|[a-z]){0,12}") {
            if let Ok(found) = targets(&[&path]) {
                prop_assert!(found[0].starts_with('/') && found[0].len() > 1);
                prop_assert!(!found[0].ends_with('/') && !found[0].contains("//"));
                prop_assert!(found[0].split('/').all(|part| part != ".." && part != "."));
                prop_assert_eq!(targets(&[&found[0]]).unwrap(), found);
            }
        }
    }
}

//! Whether a create request makes sense, decided without touching anything.

use std::collections::BTreeMap;

use base::ids::Name;
use disk::image::SavedDisk;
use ipnet::IpNet;
use net::{egress::Forbidden, policy::Egress};

use crate::{
    Error, Kind, Result,
    model::{CreateRequest, InitSpec, Spec, User, UserLimits},
};

/// The least memory in which the guest's kernel and agent start, MiB.
pub(crate) const MEMORY_MIN_MIB: u64 = 96;
/// The smallest writable disk, MiB.
pub(crate) const DISK_MIN_MIB: u64 = 64;
/// The largest writable disk, MiB.
pub(crate) const DISK_MAX_MIB: u64 = 16 << 20;
/// The most vCPUs that the machine model takes.
pub(crate) const CPUS_MAX: u32 = 64;
/// Most variables of a sandbox, and most bytes in all of them.
const ENV_MAX: usize = 512;
const ENV_BYTES_MAX: usize = 512 << 10;
/// Most bytes of what a sandbox is to run.
const INIT_MAX: usize = 64 << 10;
const LABELS_MAX: usize = 16;
const LABEL_KEY_MAX: usize = 63;
const LABEL_VALUE_MAX: usize = 256;

/// What is taken when the request does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// Image name.
    pub image: String,
    /// Guest memory, MiB.
    pub memory_mib: u64,
    /// Writable disk, MiB.
    pub disk_mib: u64,
}

/// The host's own size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Host {
    /// All of its memory, MiB.
    pub(crate) memory_mib: u64,
}

/// The name if one was given, and the full specification.
pub(crate) fn admit(
    request: CreateRequest,
    defaults: &Defaults,
    limits: UserLimits,
    host: Host,
) -> Result<(Option<Name>, Spec)> {
    let name = request.name.map(|n| n.parse::<Name>()).transpose()?;
    let image: Name = request.image.unwrap_or_else(|| defaults.image.clone()).parse()?;
    let cpus = cpus(request.cpus.unwrap_or(1), limits)?;
    let memory_mib = memory(request.memory_mib.unwrap_or(defaults.memory_mib), limits, host)?;
    let disk_mib = request.disk_mib.unwrap_or(defaults.disk_mib);
    if !(DISK_MIN_MIB..=DISK_MAX_MIB).contains(&disk_mib) {
        let message =
            format!("a disk of {disk_mib} MB is not possible: {DISK_MIN_MIB} to {DISK_MAX_MIB} MB");
        return Err(Error::new(Kind::DiskInvalid, message));
    }
    check_env(&request.env)?;
    check_labels(&request.labels)?;
    check_init(request.init.as_ref())?;
    if request.no_init && request.init.is_some() {
        return Err(Error::new(Kind::InvalidRequest, "init and no_init contradict each other"));
    }
    let CreateRequest { env, labels, init, no_init, network, .. } = request;
    // Which volumes are meant is not to be seen from the request.
    let (volumes, build) = (Vec::new(), None);
    let spec = Spec {
        image,
        cpus,
        memory_mib,
        disk_mib,
        env,
        labels,
        init,
        no_init,
        network,
        volumes,
        build,
    };
    Ok((name, spec))
}

/// Whether somebody may give a sandbox this policy: only an admin opens what is closed to all, the
/// host's own network first of all. What the user's ceiling names is opened.
pub(crate) fn check_egress(egress: &Egress, forbidden: &Forbidden, owner: &User) -> Result<()> {
    let ceiling = owner.network.ceiling.iter().flat_map(|ceiling| &ceiling.cidrs);
    let opened = |range: &IpNet| ceiling.clone().any(|open| open.contains(range));
    let closed = egress.cidrs.iter().find(|range| forbidden.touches(**range) && !opened(range));
    match closed {
        Some(range) if !owner.admin => {
            let message = format!("{range} has closed addresses, which only an admin may open");
            Err(Error::new(Kind::PermissionDenied, message).hint("name a range of the internet"))
        }
        _ => Ok(()),
    }
}

/// Whether a user may have another sandbox of this specification.
pub(crate) fn within(spec: &Spec, limits: UserLimits, host: Host) -> Result<()> {
    cpus(spec.cpus, limits)?;
    memory(spec.memory_mib, limits, host)?;
    Ok(())
}

fn check_init(init: Option<&InitSpec>) -> Result<()> {
    let bad = |message: String| Err(Error::new(Kind::InvalidRequest, message));
    match init {
        Some(init) if init.command.trim().is_empty() => bad("init: there is no command".to_owned()),
        Some(init) if init.command.len() > INIT_MAX => {
            bad(format!("init: at most {INIT_MAX} bytes"))
        }
        Some(init) if init.command.contains('\0') => {
            bad("init: a command cannot contain a NUL character".to_owned())
        }
        _ => Ok(()),
    }
}

fn cpus(cpus: u32, limits: UserLimits) -> Result<u32> {
    if cpus == 0 || cpus > CPUS_MAX {
        let message = format!("{cpus} vCPUs are not possible: 1 to {CPUS_MAX}");
        return Err(Error::new(Kind::CpusInvalid, message));
    }
    if cpus > limits.cpus_per_sandbox {
        let message =
            format!("{cpus} vCPUs are more than your {} a sandbox", limits.cpus_per_sandbox);
        return Err(Error::new(Kind::QuotaCpus, message).hint("ask for fewer with --cpus"));
    }
    Ok(cpus)
}

fn memory(mib: u64, limits: UserLimits, host: Host) -> Result<u64> {
    if mib < MEMORY_MIN_MIB {
        let message = format!("{mib} MB of memory are too few: at least {MEMORY_MIN_MIB} MB");
        return Err(Error::new(Kind::MemoryInvalid, message));
    }
    if mib > host.memory_mib {
        let message = format!("{mib} MB of memory are more than the host's {} MB", host.memory_mib);
        return Err(Error::new(Kind::MemoryExceedsHost, message).hint("ask for less with --memory"));
    }
    let most = limits.memory_mib_per_sandbox;
    if mib > most {
        let message = format!("{mib} MB of memory are more than your {most} MB a sandbox");
        return Err(Error::new(Kind::QuotaMemory, message).hint("ask for less with --memory"));
    }
    Ok(mib)
}

fn check_env(env: &BTreeMap<String, String>) -> Result<()> {
    let bad = |message: String| Err(Error::new(Kind::InvalidRequest, message));
    if env.len() > ENV_MAX
        || env.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>() > ENV_BYTES_MAX
    {
        return bad(format!("env: at most {ENV_MAX} variables and {ENV_BYTES_MAX} bytes"));
    }
    match env.iter().find(|(k, v)| k.is_empty() || k.contains(['=', '\0']) || v.contains('\0')) {
        Some((key, _)) => bad(format!("env: {key:?} cannot be an environment variable")),
        None => Ok(()),
    }
}

pub(crate) fn check_labels(labels: &BTreeMap<String, String>) -> Result<()> {
    let bad = |message: String| Err(Error::new(Kind::InvalidRequest, message));
    if labels.len() > LABELS_MAX {
        return bad(format!("labels: at most {LABELS_MAX}"));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    for (key, value) in labels {
        let key_fits = !key.is_empty()
            && key.len() <= LABEL_KEY_MAX
            && key.starts_with(|c: char| c.is_ascii_alphanumeric())
            && key.chars().all(|c| plain(c) || c == '/');
        if !key_fits {
            return bad(format!("labels: {key:?} is not a valid key"));
        }
        if value.len() > LABEL_VALUE_MAX || !value.chars().all(plain) {
            return bad(format!("labels: the value of {key:?} is not valid"));
        }
    }
    Ok(())
}

/// All of the host's memory, MiB.
pub(crate) fn host() -> Host {
    let info = rustix::system::sysinfo();
    let bytes = info.totalram.saturating_mul(u64::from(info.mem_unit));
    Host { memory_mib: bytes >> 20 }
}

/// Memory that the host could still give, MiB.
pub(crate) fn available_mib() -> Option<u64> {
    let text = fs_err::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib >> 10)
}

/// Has a sandbox's disk hold what its image was saved with. `sized` is whether the caller has said how
/// large the disk is to be.
///
/// # Errors
/// [`Kind::DiskInvalid`] if that is too little.
pub(crate) fn fit_disk(spec: &mut Spec, sized: bool, saved: Option<&SavedDisk>) -> Result<()> {
    let least = saved.map_or(0, |saved| saved.size_mib);
    if spec.disk_mib >= least {
        return Ok(());
    }
    if sized {
        let message = format!(
            "a disk of {} MB is too small: the image {} was saved with one of {least} MB",
            spec.disk_mib, spec.image
        );
        return Err(Error::new(Kind::DiskInvalid, message)
            .hint("ask for at least that, or leave the size out"));
    }
    spec.disk_mib = least;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::message::RestartPolicy;

    use super::*;

    fn defaults() -> Defaults {
        Defaults { image: "minimal".into(), memory_mib: 1024, disk_mib: 8192 }
    }

    fn admit_default(request: CreateRequest) -> Result<(Option<Name>, Spec)> {
        admit(request, &defaults(), UserLimits::default(), Host { memory_mib: 8192 })
    }

    #[test]
    fn limits_hold_for_defaults_too() {
        let limits = UserLimits { memory_mib_per_sandbox: 512, ..UserLimits::default() };
        let admitted =
            admit(CreateRequest::default(), &defaults(), limits, Host { memory_mib: 8192 });
        assert_eq!(admitted.unwrap_err().kind, Kind::QuotaMemory);
    }

    #[test]
    fn every_bad_number_has_its_own_kind() {
        let with = |f: fn(&mut CreateRequest)| {
            let mut request = CreateRequest::default();
            f(&mut request);
            admit_default(request).unwrap_err().kind
        };
        assert_eq!(with(|r| r.memory_mib = Some(0)), Kind::MemoryInvalid);
        assert_eq!(with(|r| r.memory_mib = Some(1 << 40)), Kind::MemoryExceedsHost);
        assert_eq!(with(|r| r.memory_mib = Some(5000)), Kind::QuotaMemory);
        assert_eq!(with(|r| r.cpus = Some(0)), Kind::CpusInvalid);
        assert_eq!(with(|r| r.cpus = Some(5)), Kind::QuotaCpus);
        assert_eq!(with(|r| r.disk_mib = Some(1)), Kind::DiskInvalid);
        assert_eq!(with(|r| r.name = Some("../x".into())), Kind::InvalidName);
        assert_eq!(with(|r| r.image = Some("a b".into())), Kind::InvalidName);
    }

    #[test]
    fn what_it_is_to_run_is_a_line_for_a_shell() {
        let with = |command: String| {
            let init = Some(InitSpec { command, restart: RestartPolicy::Always });
            admit_default(CreateRequest { init, ..CreateRequest::default() })
        };
        let (_, spec) = with("x".repeat(INIT_MAX)).unwrap();
        assert_eq!(spec.init.unwrap().restart, RestartPolicy::Always);
        for bad in [String::new(), " \n".to_owned(), "a\0".to_owned(), "x".repeat(INIT_MAX + 1)] {
            assert_eq!(with(bad).unwrap_err().kind, Kind::InvalidRequest);
        }
    }

    proptest! {
        #[test]
        fn what_is_admitted_is_within_all_limits(
            cpus in any::<Option<u32>>(), memory in any::<Option<u64>>(), disk in any::<Option<u64>>(),
            name in proptest::option::of(".{0,70}"), key in ".{0,8}", value in ".{0,8}",
        ) {
            let request = CreateRequest {
                name, cpus, memory_mib: memory, disk_mib: disk,
                env: [(key.clone(), value.clone())].into(), labels: [(key, value)].into(),
                ..CreateRequest::default()
            };
            if let Ok((_, spec)) = admit_default(request) {
                prop_assert!((1..=4).contains(&spec.cpus));
                prop_assert!((MEMORY_MIN_MIB..=4096).contains(&spec.memory_mib));
                prop_assert!((DISK_MIN_MIB..=DISK_MAX_MIB).contains(&spec.disk_mib));
                prop_assert!(spec.env.keys().all(|k| !k.contains('=')));
            }
        }
    }
}

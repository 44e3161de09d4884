//! What a saved memory depends on. One that was saved under another fingerprint is refused: loading
//! it would crash the guest, or worse, would not.

use proto::preamble;
use serde::{Deserialize, Serialize};

use crate::{Error, Kind, Result, model::Spec};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fingerprint {
    /// Monitor, its version and accelerator, the model of the CPU, the devices.
    pub engine: String,
    /// The kernel in the memory.
    pub kernel: String,
    /// Number of vCPUs.
    pub cpus: u32,
    /// Guest memory, MiB.
    pub memory_mib: u64,
    /// The protocol that the agent in the memory speaks. Its program is in the memory, too, so which
    /// one it is does not matter otherwise.
    pub protocol: u16,
}

impl Fingerprint {
    pub(crate) fn new(engine: String, kernel: &str, spec: &Spec) -> Self {
        let Spec { cpus, memory_mib, .. } = *spec;
        let kernel = kernel.to_owned();
        Self { engine, kernel, cpus, memory_mib, protocol: preamble::VERSION }
    }

    /// Whether a memory that was saved under `self` can be loaded where `host` holds.
    ///
    /// # Errors
    /// [`Kind::SnapshotIncompatible`] names each part that differs.
    pub(crate) fn accepts(&self, host: &Self) -> Result<()> {
        let mut differences = Vec::new();
        let mut compare = |what: &str, saved: &dyn ToString, now: &dyn ToString| {
            let (saved, now) = (saved.to_string(), now.to_string());
            if saved != now {
                differences.push(format!("{what} {saved}, now {now}"));
            }
        };
        compare("engine", &self.engine, &host.engine);
        compare("kernel", &self.kernel, &host.kernel);
        compare("vCPUs", &self.cpus, &host.cpus);
        compare("memory in MB", &self.memory_mib, &host.memory_mib);
        // The newer side bends, so only an agent from the future is not understood.
        if self.protocol > host.protocol {
            compare("agent's protocol", &self.protocol, &host.protocol);
        }
        if differences.is_empty() {
            return Ok(());
        }
        let message =
            format!("the memory snapshot was taken elsewhere: {}", differences.join("; "));
        Err(Error::new(Kind::SnapshotIncompatible, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint() -> Fingerprint {
        Fingerprint {
            engine: "qemu 7.2 tcg".to_owned(),
            kernel: "k1".to_owned(),
            cpus: 2,
            memory_mib: 512,
            protocol: 3,
        }
    }

    #[test]
    fn whatever_differs_is_named() {
        let host = fingerprint();
        fingerprint().accepts(&host).unwrap();
        fn refused(change: impl Fn(&mut Fingerprint)) -> String {
            let mut saved = fingerprint();
            change(&mut saved);
            let error = saved.accepts(&fingerprint()).unwrap_err();
            assert_eq!(error.kind, Kind::SnapshotIncompatible);
            error.message
        }
        assert!(refused(|f| f.engine = "qemu 8.0 kvm".to_owned()).contains("now qemu 7.2 tcg"));
        assert!(refused(|f| f.kernel = "k0".to_owned()).contains("kernel k0, now k1"));
        assert!(refused(|f| f.cpus = 1).contains("vCPUs 1, now 2"));
        assert!(refused(|f| f.memory_mib = 256).contains("memory in MB 256"));
        assert!(refused(|f| f.protocol = 4).contains("protocol 4, now 3"));
    }

    #[test]
    fn an_older_agent_is_understood() {
        let old = Fingerprint { protocol: 1, ..fingerprint() };
        old.accepts(&fingerprint()).unwrap();
    }
}

//! The tier `docker`: Docker Engine.

/// What the engine keeps lies beside the overlay that is the guest's root: an overlay cannot lie
/// on another one.
const CONF: &str = "plain /var/lib/docker\nplain /var/lib/containerd\n";

/// Engine and containers take the user's network settings as they are; logs are bounded, as the
/// disk is.
const DAEMON: &str = r#"{
  "storage-driver": "overlay2",
  "log-driver": "json-file",
  "log-opts": { "max-size": "10m", "max-file": "3" }
}
"#;

/// What the engine looks for when it starts and what containers need later, loaded once before the
/// template is recorded.
const MODULES: &str = "overlay\nbridge\nbr_netfilter\nveth\nnf_tables\nnft_compat\nxt_MASQUERADE\nxt_addrtype\n\
     xt_conntrack\n";

/// Whoever runs commands in a sandbox may become root in it anyway.
const SOCKET: &str = "[Socket]\nSocketMode=0666\n";

pub(super) const FILES: [(&str, &str, u32); 4] = [
    ("etc/bhatti.conf", CONF, 0o644),
    ("etc/docker/daemon.json", DAEMON, 0o644),
    ("etc/modules-load.d/docker.conf", MODULES, 0o644),
    ("etc/systemd/system/docker.socket.d/10-open.conf", SOCKET, 0o644),
];

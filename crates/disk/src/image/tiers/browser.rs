//! The tier `browser`: Chromium without a screen.

/// It listens on the loopback: requests come through the agent, which the guest's network knows
/// nothing of. A copy of a sandbox has another name, by which the lock of the profile would be that
/// of another machine. It counts as started once it answers, so that no copy has to wait for it.
const CHROMIUM: &str = "\
[Unit]
Description=Chromium without a screen, for the DevTools protocol

[Service]
User=lohar
ExecStartPre=/bin/sh -c 'rm -f /home/lohar/.config/chromium-headless/Singleton*'
ExecStart=/usr/bin/chromium --headless=new --disable-gpu --disable-dev-shm-usage --no-first-run \
--no-default-browser-check --hide-scrollbars --mute-audio --remote-debugging-address=127.0.0.1 \
--remote-debugging-port=9222 --remote-allow-origins=* \
--user-data-dir=/home/lohar/.config/chromium-headless about:blank
ExecStartPost=/usr/bin/curl --retry 60 --retry-connrefused --retry-delay 1 --silent --fail \
--output /dev/null http://127.0.0.1:9222/json/version
Restart=always
RestartSec=1
TimeoutStartSec=120
TimeoutStopSec=5

[Install]
WantedBy=multi-user.target
";

/// What drives browsers finds what is installed for all users.
const NODE_PATH: &str = "export NODE_PATH=/usr/local/lib/node_modules\n";

pub(super) const FILES: [(&str, &str, u32); 2] = [
    ("etc/systemd/system/chromium.service", CHROMIUM, 0o644),
    ("etc/profile.d/node-path.sh", NODE_PATH, 0o644),
];

pub(super) const LINKS: [(&str, &str); 1] = [(
    "etc/systemd/system/multi-user.target.wants/chromium.service",
    "/etc/systemd/system/chromium.service",
)];

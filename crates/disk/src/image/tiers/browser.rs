//! The tier `browser`: Chromium without a screen.

/// The program that has no windows at all, not the one that hides them: that one draws its hidden
/// parts all the time, half a processor's worth. It listens on the loopback: requests come through
/// the agent, which the guest's network knows nothing of. A copy of a sandbox has another name, by
/// which the lock of the profile would be that of another machine. It counts as started once it
/// answers, so that no copy has to wait for it.
const CHROMIUM: &str = "\
[Unit]
Description=Chromium without a screen, for the DevTools protocol

[Service]
User=lohar
ExecStartPre=/bin/sh -c 'rm -f /home/lohar/.config/chromium-headless/Singleton*'
ExecStart=/usr/bin/chromium-headless-shell --disable-gpu --disable-dev-shm-usage --no-first-run \
--hide-scrollbars --mute-audio --remote-debugging-address=127.0.0.1 \
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

/// Before the template is recorded and never again: what it has left in memory is in all copies.
const REHEARSAL: &str = "\
[Unit]
Description=What a browser is used for first
Requires=chromium.service
After=chromium.service
ConditionPathExists=!/var/lib/browser-rehearsal/done

[Service]
Type=oneshot
User=lohar
StateDirectory=browser-rehearsal
ExecStart=/usr/bin/node /usr/local/lib/browser-rehearsal.js
ExecStartPost=/usr/bin/touch /var/lib/browser-rehearsal/done
TimeoutStartSec=120

[Install]
WantedBy=multi-user.target
";

/// Has library, browser and fonts read from the disk, and a renderer started.
const SCRIPT: &str = "\
const { chromium } = require('/usr/local/lib/node_modules/playwright-core');
(async () => {
  const browser = await chromium.connectOverCDP('http://127.0.0.1:9222', { timeout: 100000 });
  const page = await browser.newPage();
  await page.setContent('<h1>a</h1><p style=\"font-family: serif\">b<button>c</button>');
  await page.screenshot();
  await browser.close();
})().catch((error) => { console.error(error); process.exit(1); });
";

/// What drives browsers finds what is installed for all users.
const NODE_PATH: &str = "export NODE_PATH=/usr/local/lib/node_modules\n";

pub(super) const FILES: [(&str, &str, u32); 4] = [
    ("etc/systemd/system/chromium.service", CHROMIUM, 0o644),
    ("etc/systemd/system/browser-rehearsal.service", REHEARSAL, 0o644),
    ("usr/local/lib/browser-rehearsal.js", SCRIPT, 0o644),
    ("etc/profile.d/node-path.sh", NODE_PATH, 0o644),
];

pub(super) const LINKS: [(&str, &str); 2] = [
    (
        "etc/systemd/system/multi-user.target.wants/chromium.service",
        "/etc/systemd/system/chromium.service",
    ),
    (
        "etc/systemd/system/multi-user.target.wants/browser-rehearsal.service",
        "/etc/systemd/system/browser-rehearsal.service",
    ),
];

//! The tier `computer`: a desktop that is looked at through a web page.

const XVNC: &str = "\
[Unit]
Description=The screen

[Service]
User=lohar
ExecStart=/usr/bin/Xtigervnc :0 -geometry 1280x800 -depth 24 -SecurityTypes None -localhost \
-rfbport 5900 -AlwaysShared -desktop computer
Restart=always
RestartSec=1
";

const DESKTOP: &str = "\
[Unit]
Description=The desktop
Requires=xvnc.service
After=xvnc.service

[Service]
User=lohar
WorkingDirectory=/home/lohar
Environment=DISPLAY=:0
ExecStart=/usr/bin/dbus-launch --exit-with-session /usr/bin/openbox --startup /usr/local/lib/desktop
Restart=always
RestartSec=1
";

const WEB: &str = "\
[Unit]
Description=The screen as a web page, on port 6080
After=xvnc.service

[Service]
User=lohar
ExecStart=/usr/bin/websockify --web /usr/share/novnc 0.0.0.0:6080 127.0.0.1:5900
Restart=always
RestartSec=1
";

/// What the desktop begins with.
const STARTUP: &str = "\
#!/bin/sh
pcmanfm --desktop &
xterm -geometry 100x30+80+60 &
";

const INDEX: &str = "\
<!DOCTYPE html>
<meta http-equiv=\"refresh\" content=\"0; url=vnc.html?autoconnect=1&resize=scale\">
";

const SCREENSHOT: &str = "\
#!/bin/sh
# Writes what is on the screen as PNG. usage: screenshot [FILE], to standard output without one
set -eu
export DISPLAY=\"${DISPLAY:-:0}\"
if [ $# -gt 0 ]; then
    exec scrot --overwrite --silent \"$1\"
fi
file=$(mktemp --suffix=.png)
trap 'rm -f \"$file\"' EXIT
scrot --overwrite --silent \"$file\"
cat \"$file\"
";

/// Shells that are not on the screen know where it is.
const PROFILE: &str = "export DISPLAY=\"${DISPLAY:-:0}\"\n";

pub(super) const FILES: [(&str, &str, u32); 7] = [
    ("etc/systemd/system/xvnc.service", XVNC, 0o644),
    ("etc/systemd/system/desktop.service", DESKTOP, 0o644),
    ("etc/systemd/system/screen-web.service", WEB, 0o644),
    ("usr/local/lib/desktop", STARTUP, 0o755),
    ("usr/local/bin/screenshot", SCREENSHOT, 0o755),
    ("usr/share/novnc/index.html", INDEX, 0o644),
    ("etc/profile.d/display.sh", PROFILE, 0o644),
];

pub(super) const LINKS: [(&str, &str); 3] = [
    (
        "etc/systemd/system/multi-user.target.wants/xvnc.service",
        "/etc/systemd/system/xvnc.service",
    ),
    (
        "etc/systemd/system/multi-user.target.wants/desktop.service",
        "/etc/systemd/system/desktop.service",
    ),
    (
        "etc/systemd/system/multi-user.target.wants/screen-web.service",
        "/etc/systemd/system/screen-web.service",
    ),
];

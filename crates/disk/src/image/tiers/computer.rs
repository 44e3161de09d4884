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

/// It counts as started once a window can be seen.
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
ExecStartPost=/usr/bin/xdotool search --sync --onlyvisible --class xterm
TimeoutStartSec=120
Restart=always
RestartSec=1
";

/// A service is started once what it is for can be used, so that no copy has to wait for it.
const WEB: &str = "\
[Unit]
Description=The screen as a web page, on port 6080
After=xvnc.service

[Service]
User=lohar
ExecStart=/usr/bin/websockify --web /usr/share/novnc 0.0.0.0:6080 127.0.0.1:5900
ExecStartPost=/usr/bin/curl --retry 60 --retry-connrefused --retry-delay 1 --silent --fail \
--output /dev/null http://127.0.0.1:6080/
Restart=always
RestartSec=1
";

/// What the desktop begins with.
const STARTUP: &str = "\
#!/bin/sh
xsetroot -solid '#35566b'
tint2 &
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

const SCREEN_SIZE: &str = "\
#!/bin/sh
# Prints width and height of the screen.
DISPLAY=\"${DISPLAY:-:0}\" exec xdotool getdisplaygeometry
";

const ACTIVE_WINDOW: &str = "\
#!/bin/sh
# Prints the title of the window that has the keyboard.
DISPLAY=\"${DISPLAY:-:0}\" exec xdotool getactivewindow getwindowname
";

const LIST_WINDOWS: &str = "\
#!/bin/sh
# Prints id, desktop, place, size, machine and title of each window.
DISPLAY=\"${DISPLAY:-:0}\" exec wmctrl -l -G
";

/// Chromium, as programs and the panel start it: a copy of a sandbox has another name, by which the
/// lock of the profile would be that of another machine.
const CHROMIUM: &str = "\
#!/bin/sh
pgrep -u \"$(id -u)\" -x chromium >/dev/null || rm -f \"$HOME\"/.config/chromium/Singleton*
export DISPLAY=\"${DISPLAY:-:0}\"
exec /usr/bin/chromium --disable-gpu --no-first-run --no-default-browser-check \"$@\"
";

/// Shells that are not on the screen know where it is.
const PROFILE: &str = "export DISPLAY=\"${DISPLAY:-:0}\"\n";

pub(super) const FILES: [(&str, &str, u32); 11] = [
    ("etc/systemd/system/xvnc.service", XVNC, 0o644),
    ("etc/systemd/system/desktop.service", DESKTOP, 0o644),
    ("etc/systemd/system/screen-web.service", WEB, 0o644),
    ("usr/local/lib/desktop", STARTUP, 0o755),
    ("usr/local/bin/screenshot", SCREENSHOT, 0o755),
    ("usr/local/bin/screen-size", SCREEN_SIZE, 0o755),
    ("usr/local/bin/active-window", ACTIVE_WINDOW, 0o755),
    ("usr/local/bin/list-windows", LIST_WINDOWS, 0o755),
    ("usr/local/bin/chromium", CHROMIUM, 0o755),
    ("usr/share/novnc/index.html", INDEX, 0o644),
    ("etc/profile.d/display.sh", PROFILE, 0o644),
];

pub(super) const LINKS: [(&str, &str); 3] = [
    ("etc/systemd/system/multi-user.target.wants/xvnc.service", "/etc/systemd/system/xvnc.service"),
    (
        "etc/systemd/system/multi-user.target.wants/desktop.service",
        "/etc/systemd/system/desktop.service",
    ),
    (
        "etc/systemd/system/multi-user.target.wants/screen-web.service",
        "/etc/systemd/system/screen-web.service",
    ),
];

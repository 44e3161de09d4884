//! Servers in sandboxes.

use crate::{Guest, root};

/// Serves the files of `/srv` on a port.
pub async fn serve(guest: &mut Guest, port: u16) {
    let script =
        format!("mkdir -p /srv; echo hello > /srv/index.html; httpd -p 127.0.0.1:{port} -h /srv");
    guest.root(&script).await;
}

/// Answers every connection to a port with what a script does on stdin and stdout.
///
/// # Panics
/// If it cannot.
pub async fn answer_with(guest: &mut Guest, port: u16, script: &str) {
    let file = format!("/tmp/serve-{port}");
    guest
        .write(&file, format!("#!/bin/sh\n{script}\n").into_bytes())
        .await
        .expect("the script is written");
    let listen = format!("chmod +x {file}; nc -ll -p {port} -e {file}");
    guest.detach(&root(&listen)).await;
    let hex = format!("{port:04X}");
    guest
        .sh(&format!(
            "until cat /proc/net/tcp /proc/net/tcp6 | grep -q ':{hex} .* 0A'; do usleep 1000; done"
        ))
        .await;
}

/// Reads a request's head, for [`answer_with`].
pub const HEAD: &str = "while read -r line; do [ ${#line} -le 1 ] && break; done;";

/// Says what it was asked, for [`answer_with`].
pub const ECHO: &str = "req=; while read -r line; do line=${line%?}; req=\"$req$line\\\\n\"; [ -z \"$line\" ] && break; done; \
    printf 'HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nX-Own: yes\\r\\n\\r\\n'; printf %b \"$req\"";

/// Serves a stream of events: `data: one` at once, and `data: two` once there is a file `/tmp/go`.
pub async fn events(guest: &mut Guest, port: u16) {
    let script = format!(
        "{HEAD} printf 'HTTP/1.1 200 OK\\r\\nContent-Type: text/event-stream\\r\\nConnection: close\\r\\n\\r\\n'; \
         echo 'data: one'; while [ ! -e /tmp/go ]; do usleep 1000; done; echo 'data: two'"
    );
    answer_with(guest, port, &script).await;
}

/// Agrees to every upgrade, says `hello` and sends back what comes.
pub async fn upgrades(guest: &mut Guest, port: u16) {
    let script = format!(
        "{HEAD} printf 'HTTP/1.1 101 Switching Protocols\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\nhello'; cat"
    );
    answer_with(guest, port, &script).await;
}
